"""Groups that are harder than classes: redundant halves of classes, and classes with wrong labels."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from benchmarks import groupings, oracles
from benchmarks.agree import make, score
from benchmarks.stages import Asked, Bench
from benchmarks.tables import write_table
from guda_lightning.evaluation import agreement
from guda_lightning.functional.ranking import top1_agreement
from guda_lightning.scores import ScoreTable
from guda_lightning.types import Weighting

COMPARED = ("guidance", "retrack")
GROUPS = 20  # halves of ten classes


def halves(asked: Asked) -> None:
    """Every class in two random halves: one half alone must count for far less than the whole class."""
    whole = oracles.digits(asked)
    score(whole, (*COMPARED, "similarity"))
    classes = asked.classes or 10
    bench = regrouped(asked.runs / "halves", groupings.halves(asked.runs / "halves.csv"), whole)
    groups = [f"{digit}{half}" for digit in range(classes) for half in "ab"]
    only = ("--groups", ",".join(groups))
    bench.stage("retrain", "--seeds", "0", *only, label="make retrain")
    for method in ("retrain", *COMPARED, "similarity"):
        some = only if method in ("retrain", "retrack") else ()
        if method in COMPARED:
            make(bench, method, *some)
        score_method(bench, method, *some)
    rows = []
    for weighting in get_args(Weighting):
        of_classes = _matrix(whole, "retrain", weighting, own=False)
        top = of_classes.argmax(dim=1)
        chosen = torch.nonzero(top < classes).flatten()  # queries of a class whose halves were retrained
        oracle_cost = _seconds(bench, "retrain", len(groups))
        for method in ("retrain", *COMPARED, "similarity"):
            made = len(groups) if method in ("retrain", "retrack") else GROUPS
            of_half = _matrix(bench, method, weighting)
            all_of_it = _matrix(whole, method, weighting, own=False)[chosen, top[chosen]]
            both = torch.stack([of_half[chosen, 2 * top[chosen] + half] for half in (0, 1)]).mean(0)
            row: dict[str, object] = {
                "weighting": weighting,
                "method": "oracle" if method == "retrain" else method,
                "core seconds": f"{_seconds(bench, method, made):.0f}",
                "oracle / method": f"{oracle_cost / _seconds(bench, method, made):.0f}",
                "whole class": f"{all_of_it.mean():.3g}",
                "half of it": f"{both.mean():.3g}",
                "half / whole": f"{both.mean() / all_of_it.mean():.2f}",
            }
            if len(groups) == GROUPS:
                oracle = _matrix(bench, "retrain", weighting)
                found = agreement({method: of_half}, oracle[None]).metrics.set_index("metric").value
                for metric in ("top1", "ndcg@3"):
                    row[metric] = "" if method == "retrain" else f"{found[metric]:.3f}"
            rows.append(row)
    joint, slope = _unions(bench, whole)
    notes = (
        f"Mean scores of each query's top class, by the ten-class oracle, and of its two halves; cosines for "
        f"similarity. {len(chosen)} queries with a top class among the {classes} whose halves were "
        f"retrained. Seconds of one core for {GROUPS} groups; those of oracle and retrack are of "
        f"{len(groups)}, multiplied. Removed together by guidance (`--groups 0a+0b,...`), the halves of each "
        f"class have top-1 agreement {joint:.3f} with the retrained classes (uniform), slope {slope:.2f}."
    )
    write_table("halves", asked.command("halves"), rows, notes)


def mislabelled(asked: Asked) -> None:
    """Five per cent of the images in a wrong class, judged by the oracle of the right classes."""
    clean = oracles.digits(asked)
    groups = groupings.mislabelled(asked.runs / "mislabelled.csv")
    bench = regrouped(asked.runs / "mislabelled", groups, clean)
    score(clean, COMPARED)
    for method in COMPARED:
        make(bench, method)
        score_method(bench, method)
    rows = []
    for weighting in get_args(Weighting):
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


def regrouped(root: Path, groups: str, base: Bench) -> Bench:
    """The digits under other groups, with the full model and the queries of the ten classes."""
    return Bench(root, *base.options, "--data.init_args.groups", groups, "--full", str(base.run.full))


def score_method(bench: Bench, method: str, *options: str) -> None:
    """Score the queries of the ten classes by a method, under the groups of a bench."""
    queries = ("--queries", str(Path(bench.options[-1]).parent / "queries"))
    if method == "similarity":
        bench.stage("attribute", "-c", "attribute/similarity.yaml", *queries, label="attribute similarity")
        return
    scored = ("-c", "attribute/elbo.yaml", "--operator", method)
    bench.stage("attribute", *scored, *queries, *options, label=f"attribute {method}")


def _unions(bench: Bench, whole: Bench) -> tuple[float, float]:
    """Agreement of guidance away from both halves of a class with the oracle of that class, and the slope."""
    queries = ("--queries", str(whole.run.queries))
    unions = ("--groups", ",".join(f"{digit}a+{digit}b" for digit in range(10)), "--name", "unions")
    scored = ("-c", "attribute/elbo.yaml", "--operator", "guidance")
    bench.stage("attribute", *scored, *queries, *unions, label="attribute unions")
    table = ScoreTable.load(bench.run.table("guidance", 0, "queries", "unions")).select(weighting="uniform")
    oracle, scores = _matrix(whole, "retrain", "uniform", own=False), table.matrix()
    centred = [matrix - matrix.mean(dim=1, keepdim=True) for matrix in (scores, oracle)]
    slope = (centred[0] * centred[1]).sum() / centred[0].square().sum()
    return float(top1_agreement(scores, oracle).mean()), float(slope)


def _seconds(bench: Bench, method: str, groups: int) -> float:
    """Seconds of one core for all groups, from those of some of them."""
    return bench.seconds(f"make {method}", f"attribute {method}") * GROUPS / groups


def _matrix(bench: Bench, method: str, weighting: str, seed: int = 0, *, own: bool = True) -> Tensor:
    """Scores ``[queries, groups]``; those of other groups than the run's own carry the queries' name."""
    table = ScoreTable.load(bench.run.table(method, seed, *(["queries"] if own else [])))
    return (table if method == "similarity" else table.select(weighting=weighting)).matrix()
