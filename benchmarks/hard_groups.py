"""Groups that are harder than classes: redundant and small parts of them, and classes with wrong labels."""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor

from benchmarks import groupings, oracles
from benchmarks.agree import score
from benchmarks.stages import Asked, Bench
from benchmarks.tables import with_interval, write_table
from guda_lightning.evaluation import agreement
from guda_lightning.functional.ranking import top1_agreement
from guda_lightning.scores import ScoreTable
from guda_lightning.types import Weighting

COMPARED = ("guidance", "retrack")
PARTS = ("retrain", "guidance", "guided", "retrack", "similarity")
EACH = ("retrain", "guided", "retrack")  # that have a model for each group

Row = dict[str, object]


def halves(asked: Asked) -> None:
    """Every class in two random halves: one half alone must count for far less than the whole class."""
    bench, whole, rows, notes = _parts(asked, "halves")
    joint, slope = _unions(bench, whole, asked.size.classes)
    notes += (
        " Removed together by guidance (`--groups 0a+0b,...`), the halves of each class have top-1 agreement "
        f"{joint:.3f} with the retrained classes (uniform), slope {slope:.2f}."
    )
    write_table(asked.docs, "halves", asked.command("halves"), rows, notes)


def tenths(asked: Asked) -> None:
    """A tenth of every class as a group of its own, about 18 images: what the smallest groups can tell."""
    _, _, rows, notes = _parts(asked, "tenths")
    write_table(asked.docs, "tenths", asked.command("tenths"), rows, notes)


def _parts(asked: Asked, name: str) -> tuple[Bench, Bench, list[Row], str]:
    """Score parts of classes, and the classes; a table of what the shown parts count for."""
    (share, shown), whole = oracles.SHARES[name], oracles.digits(asked)
    score(whole, PARTS[1:])
    classes = asked.classes or min(2, asked.size.classes)
    every = 2 * asked.size.classes  # two parts of each class
    bench, groups = oracles.parts(asked, name), oracles.part_names(asked, name)
    only = ("--groups", ",".join(groups))
    for method in PARTS[1:]:
        score(bench, (method,), *(only if method in EACH else ()))
    rows: list[Row] = []
    for weighting in get_args(Weighting):
        of_classes = _matrix(whole, "retrain", weighting)
        top = of_classes.argmax(dim=1)
        chosen = torch.nonzero(top < classes).flatten()  # queries of a class whose parts were retrained
        oracle_cost = bench.seconds("retrain 0", "attribute retrain 0") / len(groups)
        for method in PARTS:
            cost = bench.seconds(f"make {method}", f"attribute {method}") / (
                len(groups) if method in EACH else every
            )
            cost = oracle_cost if method == "retrain" else cost
            of_part, parts = _matrix(bench, method, weighting), _table(bench, method).groups
            all_of_it = _matrix(whole, method, weighting)[chosen, top[chosen]]
            named = [[parts.index(f"{c}{part}") for part in shown] for c in top[chosen]]
            columns = torch.tensor(named, dtype=torch.long).view(-1, len(shown))  # of a toy, perhaps none
            mean = of_part[chosen[:, None], columns].mean()
            row: Row = {
                "weighting": weighting,
                "method": "oracle" if method == "retrain" else method,
                "core seconds": f"{cost * every:.0f}",
                "oracle / method": f"{oracle_cost / cost:.0f}",
                "whole class": f"{all_of_it.mean():.3g}",
                "part of it": f"{mean:.3g}",
                "part / whole": f"{mean / all_of_it.mean():.2f}",
            }
            if len(groups) == every:
                oracle = _matrix(bench, "retrain", weighting)
                found = agreement({method: of_part}, oracle[None]).metrics.set_index("metric").value
                for metric in ("top1", "ndcg@3"):
                    row[metric] = "" if method == "retrain" else f"{found[metric]:.3f}"
            rows.append(row)
    notes = (
        f"Mean scores of each query's top class, by the ten-class oracle, and of its parts ({share:.0%} of "
        f"its images); cosines for similarity. {len(chosen)} queries with a top class among the {classes} "
        f"whose parts were retrained. Seconds of one core for {every} groups; those of "
        f"{', '.join(EACH)} are of {len(groups)}, multiplied."
    )
    return bench, whole, rows, notes


def mislabelled(asked: Asked) -> None:
    """Five per cent of the images in a wrong class, judged by the oracle of the right classes."""
    clean = oracles.digits(asked)
    groups = groupings.mislabelled(asked.runs / "mislabelled.csv", asked.size.classes)
    bench = oracles.regrouped(asked.runs / "mislabelled", groups, clean)
    score(clean, COMPARED)
    score(bench, COMPARED)
    rows = []
    oracle_cost = clean.seconds("retrain 0", "attribute retrain 0")
    for weighting in get_args(Weighting):
        seeds = range(clean.seeds)
        oracle = torch.stack([_matrix(clean, "retrain", weighting, seed) for seed in seeds])
        methods = {f"{m}, right labels": _matrix(clean, m, weighting) for m in COMPARED}
        methods |= {f"{m}, 5 % wrong": _matrix(bench, m, weighting) for m in COMPARED}
        found = agreement(methods, oracle).metrics
        found = found[found.yardstick == "all seeds"]
        for method in methods:
            of_method = found[found.method == method]
            row: Row = {"weighting": weighting, "method": method}
            operator, _, labels = method.partition(", ")
            own = clean if labels == "right labels" else bench
            cost = own.seconds(f"make {operator}", f"attribute {operator}")
            row |= {"core seconds": f"{cost:.0f}", "oracle / method": f"{oracle_cost / cost:.0f}"}
            for metric in ("top1", "ndcg@3", "spearman"):
                row[metric] = with_interval(of_method, metric)
            rows.append(row)
    notes = "Agreement with the mean of the oracle seeds, which were retrained with the right labels."
    write_table(asked.docs, "mislabelled", asked.command("mislabelled"), rows, notes)


def _unions(bench: Bench, whole: Bench, classes: int) -> tuple[float, float]:
    """Agreement of guidance away from both halves of a class with the oracle of that class, and the slope."""
    unions = ("--groups", ",".join(f"{digit}a+{digit}b" for digit in range(classes)), "--name", "unions")
    scored = ("-c", "attribute/elbo.yaml", "--operator", "guidance")
    bench.stage("attribute", *scored, *unions, label="attribute unions")
    table = ScoreTable.load(bench.run.table("guidance", 0, "unions")).select(weighting="uniform")
    oracle, scores = _matrix(whole, "retrain", "uniform"), table.matrix()
    centred = [matrix - matrix.mean(dim=1, keepdim=True) for matrix in (scores, oracle)]
    slope = (centred[0] * centred[1]).sum() / centred[0].square().sum()
    return float(top1_agreement(scores, oracle).mean()), float(slope)


def _matrix(bench: Bench, method: str, weighting: str, seed: int = 0) -> Tensor:
    """Scores ``[queries, groups]``."""
    table = _table(bench, method, seed)
    return (table if method == "similarity" else table.select(weighting=weighting)).matrix()


def _table(bench: Bench, method: str, seed: int = 0) -> ScoreTable:
    return ScoreTable.load(bench.run.table(method, seed))
