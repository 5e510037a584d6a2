"""All methods on one yardstick as one table: agreement, size and cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from guda_lightning.evaluation.agreement import HALF, ORACLE
from guda_lightning.evaluation.comparison import ENSEMBLE
from guda_lightning.evaluation.result import EVERY, Evaluation
from guda_lightning.report.agreement_table import (
    ORACLE_LABEL,
    agreement_table,
    header,
    matching,
    oracle_name,
    share,
)
from guda_lightning.report.agreement_text import columns
from guda_lightning.report.text import wrapped
from guda_lightning.storage.costs import TableCost

_NOTES = (
    "Agreement: of each oracle seed with the mean of the others, and of every method with the same means. "
    "Slope and R²: of the oracle's scores as a line in the method's, within queries; slope 1 is its size.",
    "Cost: seconds by the clock of what is made once for any queries, and of one query under all groups; "
    "passes of the model, a gradient as three, and of what was trained, forward alone, but not of encoders "
    "and posteriors that score; the most memory that guda "
    "attribute had in use, libraries included; files that scoring reads besides the full model. Squared "
    "errors that an earlier table left, such as the full model's, count there; a posterior that was learnt "
    "from, and a screen, have rows of their own. Blank: nobody has kept it.",
)
COLUMNS = ("top1", "ndcg@3", "slope", "r2")
HEADS = {"r2": "R²"}
COSTS = ("prepare", "a query", "evaluations", "memory", "disk")
Interval = tuple[float, float, float]  # value, low, high


@dataclass(frozen=True)
class MethodRow:
    """A method under one weighting, the oracle's own agreement, or chance.

    Attributes:
        weighting: Name.
        method: Name of the score table, or what to call the oracle's row, or chance.
        numbers: By column of ``COLUMNS``, value, low and high end; a column is left out where it has no
            meaning.
    """

    weighting: str
    method: str
    numbers: Mapping[str, Interval]


def method_rows(evaluation: Evaluation) -> Iterator[MethodRow]:
    """Rows by weighting, the one first that the oracle repeats best, and by top-1 agreement.

    Slope and R² are of the oracle's scores as a line in the method's, within queries; those of the oracle are
    of one seed against the mean of the others.
    """
    for weighting in evaluation.weightings:
        table = agreement_table(evaluation, weighting)
        sizes = {
            (row["method"], row["quantity"]): (row["value"], row["low"], row["high"])
            for row in matching(evaluation.magnitudes, weighting=weighting, noise=EVERY, pooling="within")
        }
        for row in table.rows:
            of = ORACLE if row.label == ORACLE_LABEL else row.label
            agreed = {name: (row.values[name], *row.intervals[name]) for name in COLUMNS[:2]}
            sized = {name: sizes[of, name] for name in COLUMNS[2:] if (of, name) in sizes}
            yield MethodRow(weighting, row.label, agreed | sized)
        rows = matching(evaluation.metrics, weighting=weighting, noise=EVERY, method=ORACLE, yardstick=HALF)
        halves = {row["metric"]: (row["value"], row["low"], row["high"]) for row in rows}
        if halves:
            seeds = len(evaluation.record["oracle_seeds"]) // 2
            agreed = {name: halves[name] for name in COLUMNS[:2]}
            yield MethodRow(weighting, f"{seeds} seeds against {seeds}", agreed)
        chance = table.chance.values
        yield MethodRow(weighting, "chance", {name: (chance[name],) * 3 for name in COLUMNS[:2]})


def with_interval(name: str, numbers: Interval | None) -> str:
    """Write a number of a column with its interval: ``.95 [.92, .98]``."""
    if numbers is None:
        return "–"
    value, low, high = numbers
    if name == "slope":
        shown = f"{value:.3g} [{low:.2g}, {high:.2g}]".replace("-", "−")
    else:
        shown = f"{share(value)} [{share(low, 2)}, {share(high, 2)}]"
    return shown if low < high else shown.partition(" ")[0]


def yardstick_text(evaluation: Evaluation, costs: Mapping[str, TableCost | None]) -> str:
    """Write the tables in lines of at most 100 columns.

    Args:
        evaluation: What ``guda evaluate`` found.
        costs: By the name of the score table; None where nobody knows.
    """
    heads = ["", *(HEADS.get(name, name) for name in COLUMNS)]
    parts, rows = ["\n".join(wrapped(header(evaluation)))], list(method_rows(evaluation))
    for weighting in evaluation.weightings:
        lines = [[f"weighting {weighting}", *heads[1:]]]
        for row in (row for row in rows if row.weighting == weighting):
            lines.append([row.method, *(with_interval(name, row.numbers.get(name)) for name in COLUMNS)])
        parts.append("\n".join(columns(lines)))
    parts.append("\n".join(columns([["cost", *COSTS], *([name, *cells(costs[name])] for name in costs)])))
    about = [ENSEMBLE] if oracle_name(evaluation) == "ensemble" else []
    parts.append("\n".join(line for text in (*about, *_NOTES) for line in wrapped(text)))
    return "\n\n".join(parts)


def cells(cost: TableCost | None) -> list[str]:
    """What a score table cost, by the columns of ``COSTS``; what nobody has kept is blank."""
    if cost is None:
        return [""] * len(COSTS)
    made, scored = cost.preparation, cost.scoring
    return [
        "" if made is None else f"{made.seconds:.0f} s",
        f"{scored.seconds / cost.queries:.2g} s",
        "" if cost.evaluations is None else f"{cost.evaluations:,}",
        "" if cost.memory is None else in_mib(cost.memory),
        in_mib(cost.disk),
    ]


def in_mib(size: int) -> str:
    """Write a number of bytes: ``1.5 MiB``."""
    number = size / 2**20
    return f"{number:,.0f} MiB" if number >= 10 or not number else f"{number:.2g} MiB"
