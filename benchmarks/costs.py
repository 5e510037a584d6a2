"""What the methods that were scored cost, as tables show it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from benchmarks.methods import METHODS
from benchmarks.stages import Bench, unit
from guda_lightning.counterfactuals import RETRAIN
from guda_lightning.storage.costs import Spent, TableCost


@dataclass(frozen=True)
class Cost:
    """What a method cost, as the table shows it; None where nobody knows.

    Attributes:
        prepare: Seconds of one core, or by the clock where a GPU works.
        query: Likewise of one query.
        queries: How many were scored.
        evaluations: Of networks.
        memory: Bytes.
        disk: Bytes.
    """

    prepare: float | None = None
    query: float | None = None
    queries: int = 0
    evaluations: int | None = None
    memory: int | None = None
    disk: int | None = None

    @property
    def total(self) -> float | None:
        """Preparation and all queries."""
        known = self.prepare is not None and self.query is not None
        return self.prepare + self.query * self.queries if known else None  # type: ignore[operator]

    def cells(self) -> dict[str, str]:
        """Cells of the table by column."""
        of = {
            f"prepare ({unit()})": (self.prepare, "{:.1f}"),
            f"a query ({unit()})": (self.query, "{:.2g}"),
            "evaluations": (self.evaluations, "{:,}"),
            "memory (MiB)": (None if self.memory is None else self.memory / 2**20, "{:.0f}"),
            "disk (MiB)": (None if self.disk is None else self.disk / 2**20, "{:.2g}"),
        }
        return {column: "" if value is None else form.format(value) for column, (value, form) in of.items()}


def costs(bench: Bench, name: str = "") -> dict[str, Cost]:
    """What every method that was scored cost, with what it learns from.

    Args:
        bench: The run folder.
        name: That the tables were given.
    """
    ending = f"-0-{name}" if name else "-0"
    files = {one: bench.run.cost_of(bench.run.scores / f"{one}{ending}.parquet") for one in METHODS}
    known = {one: cost for one, file in files.items() if (cost := TableCost.load(file)) is not None}
    found = {}
    for one, cost in known.items():
        method = METHODS[one]
        found[one] = _cost(cost, known.get(method.needs) if method.learns else None)
    return found


def _cost(cost: TableCost, taught: TableCost | None) -> Cost:
    made = cost.preparation
    if made is not None and taught is not None:
        made = None if taught.preparation is None else made + taught.preparation
    query = _seconds(cost.scoring)
    return Cost(
        None if made is None else _seconds(made),
        None if query is None else query / cost.queries,
        cost.queries,
        None if made is None else made.evaluations + cost.scoring.evaluations,
        cost.memory,
        cost.disk,
    )


def _seconds(spent: Spent) -> float | None:
    return spent.seconds if torch.cuda.is_available() else spent.core_seconds


def oracle_cost(bench: Bench) -> Cost:
    """What one seed of the oracle cost: its stages, as packed yardsticks have no tables' costs."""
    made, scored = (
        bench.seconds(*(f"{what} {seed}" for seed in range(bench.seeds))) / bench.seeds
        for what in ("retrain", "attribute retrain")
    )
    queries = bench.size.queries
    return Cost(made, scored / queries, queries, bench.evaluations(RETRAIN)[0] // bench.seeds)
