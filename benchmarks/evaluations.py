"""How many network evaluations a query takes until it ranks as well as it will, and how to spread them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import get_args

import torch
from lightning.pytorch import LightningModule

from benchmarks import figures, oracles
from benchmarks.agree import make
from benchmarks.stages import Asked, Bench
from guda_lightning.attribution import AttributionContext, CounterfactualAttributor
from guda_lightning.data import GroupDataModule, load_queries
from guda_lightning.diffusion import open_full
from guda_lightning.evaluation import agreement
from guda_lightning.scores import ScoreTable, Scoring
from guda_lightning.types import Weighting

METHODS = ("retrack", "guidance")
STRATA = {count: (count, 1) for count in (5, 10, 25, 50, 100)}
DRAWS = {draws: (100 // draws, draws) for draws in (1, 2, 4, 10)}


def run(asked: Asked) -> None:
    """Draw agreement against evaluations, and against draws of as many evaluations, on the digits."""
    bench = oracles.digits(asked)
    for method in METHODS:
        make(bench, method)
    dashed = "with 95 % intervals; dashed: the oracle's agreement with itself at 100"
    for plans, x, name, title, of in (
        (STRATA, "evaluations per query and model", "evaluations", "Agreement and its cost", "one draw each"),
        (DRAWS, "draws per timestep", "draws", "More timesteps or more draws", "100 evaluations"),
    ):
        rows = measure(bench, oracles.digits_data(asked), plans)
        figures.lines(asked.docs, rows, x, name, title, f"digits, {of}, {dashed}")


def measure(
    bench: Bench, data: GroupDataModule, plans: Mapping[int, tuple[int, int]]
) -> Sequence[dict[str, object]]:
    """Score on noise that the oracle was not scored on, at several plans of (strata, draws)."""
    run = bench.run
    full = open_full(run.full, LightningModule())
    queries = load_queries(run.queries, (1, 8, 8))
    found = [ScoreTable.load(run.table("retrain", seed)) for seed in range(bench.seeds)]
    rows: list[dict[str, object]] = []
    for x, (strata, draws) in plans.items():
        scoring = Scoring(seed=1, strata=strata, draws=draws)
        tables = {
            method: CounterfactualAttributor(run.store, method, scoring, groups=found[0].groups)
            .fit(AttributionContext(full, data, cache=run.errors))
            .score(queries)
            for method in METHODS
        }
        for weighting in get_args(Weighting):
            oracle = torch.stack([table.select(weighting=weighting).matrix() for table in found])
            methods = {name: table.select(weighting=weighting).matrix() for name, table in tables.items()}
            agreed = agreement(methods, oracle).metrics
            agreed = agreed[(agreed.yardstick == "other seeds") & agreed.metric.isin(["top1", "ndcg@3"])]
            own = agreed[agreed.method == "oracle"].set_index("metric").value
            rows += [
                {
                    "x": x,
                    "method": row.method,
                    "metric": f"{row.metric} {weighting}",
                    **{name: float(getattr(row, name)) for name in ("value", "low", "high")},
                    "oracle": float(own[row.metric]),
                }
                for row in agreed[agreed.method != "oracle"].itertuples()
            ]
    return rows
