"""What the compared score tables cost."""

from __future__ import annotations

from guda_lightning.evaluation.result import Evaluation
from guda_lightning.storage.costs import TableCost
from guda_lightning.storage.runs import RunFolder


def table_costs(run: RunFolder, evaluation: Evaluation) -> dict[str, TableCost | None]:
    """By the name of every score table of an evaluation, the oracle's first, what it cost.

    None where nobody has kept it, or kept that of other scores.

    Raises:
        StoreError: A file is damaged.
    """
    found = {}
    for name, scores in evaluation.tables.items():
        cost = TableCost.load(run.cost_of(run.scores / f"{name}.parquet"))
        found[name] = cost if cost is not None and cost.scores == scores else None
    return found
