"""Scores that stop early, beside a fixed number of evaluations."""

from __future__ import annotations

import re

import torch
from lightning.pytorch import LightningModule

from benchmarks import oracles
from benchmarks.agree import score
from benchmarks.stages import Asked
from benchmarks.tables import with_interval, write_table
from guda_lightning.attribution import AttributionContext, RacingAttributor
from guda_lightning.data import load_queries
from guda_lightning.diffusion import open_full
from guda_lightning.distributed.execution import Execution
from guda_lightning.evaluation import agreement
from guda_lightning.scores import ScoreTable

PAPER = 400  # timesteps of its grid, each for the full model and every group
METHODS = ("guidance", "retrack")


def run(asked: Asked) -> None:
    """Race the groups of every query, under guidance and under retrack."""
    bench, data = oracles.digits(asked), oracles.digits_data(asked)
    score(bench, METHODS)
    full, queries = open_full(bench.run.full, LightningModule()), load_queries(bench.run.queries, (1, 8, 8))
    first = ScoreTable.load(bench.run.table("retrain", 0))
    oracle = torch.stack(
        [
            ScoreTable.load(bench.run.table("retrain", seed)).select(weighting="uniform").matrix()
            for seed in range(bench.seeds)
        ]
    )
    paper = PAPER * (1 + len(first.groups))
    rows: list[dict[str, object]] = []
    for method in METHODS:
        fixed = ScoreTable.load(bench.run.table(method, 0)).select(weighting="uniform")
        spent = {f"{method}, 100 timesteps": (fixed.matrix(), _passes(method, 100, len(first.groups)), "")}
        for top in (1, 3):
            racing = RacingAttributor(bench.run.store, method, top=top)
            counted: list[int] = []
            execution = Execution(on_evaluations=counted.append)
            table = racing.fit(AttributionContext(full, data, execution=execution)).score(queries)
            evaluations = sum(counted) / len(queries)
            spent[f"{method}, race for the top {top}"] = (table.matrix(), evaluations, table.notes[0])
        for name, (scores, evaluations, note) in spent.items():
            found = agreement({name: scores}, oracle).metrics
            found = found[(found.yardstick == "other seeds") & (found.method == name)]
            row: dict[str, object] = {"": name, "evaluations a query": f"{evaluations:.0f}"}
            row["share of the paper's"] = f"1/{paper / evaluations:.0f}"
            row["known"] = " of ".join(re.findall(r"of (\d+) of (\d+)", note)[0]) if note else ""
            for metric in ("top1", "ndcg@3"):
                row[metric] = with_interval(found, metric)
            rows.append(row)
    notes = (
        f"Weighting uniform, δ = .05, rounds of 10 timesteps, at most 20. The paper's grid takes {PAPER} "
        f"timesteps × {1 + len(first.groups)} models. Agreement with one oracle seed at a time; `known`: "
        "queries whose top was decided."
    )
    write_table(asked.docs, "early", asked.command("early"), rows, notes)


def _passes(method: str, timesteps: int, groups: int) -> float:
    """Network evaluations of a query: guidance takes one pass for all groups."""
    return float(timesteps if method == "guidance" else timesteps * (1 + groups))
