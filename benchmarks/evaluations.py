"""How many network evaluations a query takes until the ranking is as good as it gets."""

from __future__ import annotations

from typing import get_args

import torch
from lightning.pytorch import LightningModule

from benchmarks import figures, oracles
from benchmarks.stages import Asked
from guda_lightning.attribution import CounterfactualAttributor, Scoring
from guda_lightning.data import load_queries
from guda_lightning.diffusion import open_full
from guda_lightning.evaluation import agreement
from guda_lightning.runs import RunFolder
from guda_lightning.scores import ScoreTable
from guda_lightning.types import Weighting

STRATA = (5, 10, 25, 50, 100)
METHODS = ("retrack", "zero_target_distill")


def run(asked: Asked) -> None:
    """Draw agreement against evaluations, on the digits."""
    bench = oracles.digits(asked)
    rows = measure(bench.run, bench.seeds)
    subtitle = "digits, one draw each, with 95 % intervals; dashed: the oracle's agreement with itself at 100"
    figures.lines(rows, "evaluations per query and model", "evaluations", "Agreement and its cost", subtitle)


def measure(run: RunFolder, seeds: int) -> list[dict[str, object]]:
    """Score on noise that the oracle was not scored on, at several numbers of timesteps."""
    full = open_full(run.full, LightningModule())
    queries = load_queries(run.queries, (1, 8, 8))
    found = [ScoreTable.load(run.table("retrain", seed)) for seed in range(seeds)]
    rows: list[dict[str, object]] = []
    for strata in STRATA:
        scoring = Scoring(seed=1, strata=strata, draws=1)
        tables = {
            method: CounterfactualAttributor(
                run.store, method, scoring, groups=found[0].groups, cache=run.errors
            )
            .fit(full, None, None)
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
                    "x": strata,
                    "method": row.method,
                    "metric": f"{row.metric} {weighting}",
                    **{name: float(getattr(row, name)) for name in ("value", "low", "high")},
                    "oracle": float(own[row.metric]),
                }
                for row in agreed[agreed.method != "oracle"].itertuples()
            ]
    return rows
