"""Groups that are harder than classes: redundant halves of classes, and classes with wrong labels."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from benchmarks import groupings, oracles
from benchmarks.agree import METHODS
from benchmarks.stages import Asked, Bench
from benchmarks.tables import write_table
from guda_lightning.evaluation import agreement
from guda_lightning.scores import ScoreTable

COMPARED = ("retrack", "zero_target_distill")


def halves(asked: Asked) -> None:
    """Every class in two random halves: one half alone must count for far less than the whole class."""
    whole = oracles.digits(asked)
    bench = _regrouped(asked.runs / "halves", groupings.halves(asked.runs / "halves.csv"), whole)
    bench.stage("retrain", "--seeds", "0", label="retrain 0")
    for method in ("retrain", *COMPARED, "similarity"):
        _score(bench, method)
    rows = []
    for weighting in ("elbo", "uniform"):
        oracle = _matrix(bench, "retrain", weighting)
        for method in ("retrain", *COMPARED, "similarity"):
            of_half, of_whole = (
                _matrix(bench, method, weighting),
                _matrix(whole, method, weighting, own=False),
            )
            top = _matrix(whole, "retrain", weighting, own=False).argmax(dim=1)
            both = torch.stack([of_half[range(len(top)), 2 * top + half] for half in (0, 1)]).mean(0)
            all_of_it = of_whole[range(len(top)), top]
            row: dict[str, object] = {
                "weighting": weighting,
                "method": "oracle" if method == "retrain" else method,
                "whole class": f"{all_of_it.mean():.3g}",
                "half of it": f"{both.mean():.3g}",
                "half / whole": f"{both.mean() / all_of_it.mean():.2f}",
            }
            for metric in ("top1", "ndcg@3"):
                found = agreement({method: of_half}, oracle[None]).metrics.set_index("metric").value
                row[f"{metric}, 20 groups"] = "" if method == "retrain" else f"{found[metric]:.3f}"
            rows.append(row)
    notes = (
        "Mean scores of each query's top class, by the ten-class oracle, and of its two halves; cosines for "
        "similarity. Agreement with one oracle seed of the 20 groups."
    )
    write_table("halves", asked.command("halves"), rows, notes)


def mislabelled(asked: Asked) -> None:
    """Five per cent of the images in a wrong class, judged by the oracle of the right classes."""
    clean = oracles.digits(asked)
    groups = groupings.mislabelled(asked.runs / "mislabelled.csv")
    bench = _regrouped(asked.runs / "mislabelled", groups, clean)
    for method in COMPARED:
        _score(bench, method)
    rows = []
    for weighting in ("elbo", "uniform"):
        seeds = range(clean.seeds)
        oracle = torch.stack([_matrix(clean, "retrain", weighting, seed, own=False) for seed in seeds])
        methods = {f"{m}, right labels": _matrix(clean, m, weighting, own=False) for m in COMPARED}
        methods |= {f"{m}, 5 % wrong": _matrix(bench, m, weighting) for m in COMPARED}
        found = agreement(methods, oracle).metrics
        found = found[found.yardstick == "all seeds"]
        for method in methods:
            of_method = found[found.method == method].set_index("metric")
            row: dict[str, object] = {"weighting": weighting, "method": method}
            for metric in ("top1", "ndcg@3", "spearman"):
                value, low, high = of_method.loc[metric, ["value", "low", "high"]]
                row[metric] = f"{value:.3f} [{low:.2f}, {high:.2f}]"
            rows.append(row)
    notes = "Agreement with the mean of the oracle seeds, which were retrained with the right labels."
    write_table("mislabelled", asked.command("mislabelled"), rows, notes)


def _regrouped(root: Path, groups: str, base: Bench) -> Bench:
    """The digits under other groups, with the full model and the queries of the ten classes."""
    return Bench(root, *base.options, "--data.init_args.groups", groups, "--full", str(base.run.full))


def _score(bench: Bench, method: str) -> None:
    queries = ("--queries", str(Path(bench.options[-1]).parent / "queries"))
    if method == "similarity":
        bench.stage("attribute", "-c", "attribute/similarity.yaml", *queries, label="attribute similarity")
        return
    if method != "retrain":
        bench.stage("unlearn", *METHODS[method], "--trainer.callbacks", "[]", label=f"unlearn {method}")
    scored = ("-c", "attribute/elbo.yaml", "--operator", method)
    bench.stage("attribute", *scored, *queries, label=f"attribute {method}")


def _matrix(bench: Bench, method: str, weighting: str, seed: int = 0, *, own: bool = True) -> Tensor:
    """Scores ``[queries, groups]``; those of other groups than the run's own carry the queries' name."""
    table = ScoreTable.load(bench.run.table(method, seed, *(["queries"] if own else [])))
    return (table if method == "similarity" else table.select(weighting=weighting)).matrix()
