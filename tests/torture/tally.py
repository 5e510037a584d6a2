"""What became of everything that was tried, and the table that says it in docs/reliability.md."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
PAGE = "reliability.md"


@dataclass
class Tally:
    """Counts by kind and outcome.

    Attributes:
        part: Of the harness.
        outcomes: What is well, in the order of the columns; whatever else happens is a failure.
        counts: Outcomes by kind.
        failures: Each with the command that repeats it.
    """

    part: str
    outcomes: Sequence[str]
    counts: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    failures: list[str] = field(default_factory=list)

    def add(self, kind: str, outcome: str, repeat: str = "", wrong: Sequence[str] = ()) -> None:
        """Count one, and print it if it failed.

        Args:
            kind: Row of the table.
            outcome: What became of it.
            repeat: How to name it to ``--at``.
            wrong: What is wrong with it, if it failed.
        """
        failed = outcome not in self.outcomes
        self.counts[kind]["failed" if failed else outcome] += 1
        if failed:
            command = f"make torture ARGS=\"{self.part} --at '{repeat}'\""
            self.failures.append("\n  ".join([command, *(wrong or [outcome])]))
            print(self.failures[-1], flush=True)

    @property
    def total(self) -> int:
        """How many were tried."""
        return sum(sum(row.values()) for row in self.counts.values())

    def rows(self) -> list[dict[str, object]]:
        """Of a table, with the sum of all."""
        every: Counter[str] = sum(self.counts.values(), Counter())
        lines = [*sorted(self.counts.items()), ("in all", every)]
        columns = (*self.outcomes, "failed")
        return [
            {self.part: f"`{kind}`" if kind != "in all" else kind} | {name: row[name] for name in columns}
            for kind, row in lines
        ]

    def write(self, command: str) -> None:
        """Replace the table of this part in the page."""
        from benchmarks.tables import write_table

        write_table(DOCS, f"torture-{self.part}", command, self.rows(), page=PAGE)
