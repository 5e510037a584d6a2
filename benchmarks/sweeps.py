"""Unlearning under many hyper-parameters: chosen on calibration groups and queries, shown on all of them.

One training of the most steps serves every smaller number of steps, because the learning rate is constant:
its squared errors are kept along the way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

import pandas as pd
import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from benchmarks import figures, oracles
from benchmarks.methods import DISTILL
from benchmarks.snapshots import fragment, snapshot
from benchmarks.stages import Asked, Bench
from benchmarks.tables import write_table
from guda_lightning.attribution import squared_errors
from guda_lightning.data import load_queries
from guda_lightning.diffusion import open_full, open_schedule
from guda_lightning.evaluation import agreement, choose
from guda_lightning.functional.elbo import delta_elbo, elbo
from guda_lightning.scores import ScoreTable, Scoring, SquaredErrors
from guda_lightning.storage.runs import RunFolder
from guda_lightning.types import Weighting

SCORING = Scoring(strata=16, draws=1)  # along the training
IMAGE_SHAPE = {1: (1, 8, 8), 3: (3, 8, 8)}  # by the channels that a network takes
LONG = ("retrack", "zero_target", "finetune lr 1e-3")  # of steps; the others stop early
SHOWN = ("top1", "ndcg@3")
LR, WEIGHT = "--optimizer.init_args.lr", "--objective.init_args.forget_weight"
NEIGHBOURS = "--objective.init_args.neighbours"
RETRACK = ("-c", "unlearn/retrack.yaml")
ZERO = ("-c", "unlearn/zero_target.yaml")
SWEEPS: Mapping[str, Sequence[str]] = {
    "retrack": RETRACK,
    "retrack lr 1e-3": (*RETRACK, LR, "1e-3"),
    "retrack λ 0.1": (*RETRACK, WEIGHT, "0.1"),
    "retrack λ 0.3": (*RETRACK, WEIGHT, "0.3"),
    "retrack λ 3": (*RETRACK, WEIGHT, "3"),
    "retrack K 1": (*RETRACK, NEIGHBOURS, "1"),
    "retrack K 10": (*RETRACK, NEIGHBOURS, "10"),
    "retrack distill": (*RETRACK, *DISTILL),
    "zero_target": ZERO,
    "zero_target λ 0.1": (*ZERO, WEIGHT, "0.1"),
    "zero_target distill": (*ZERO, *DISTILL),
    "finetune lr 1e-3": ("-c", "unlearn/finetune.yaml", LR, "1e-3"),
    "neggrad": ("-c", "unlearn/neggrad.yaml"),
}
WEIGHTS = {0.1: "retrack λ 0.1", 0.3: "retrack λ 0.3", 1.0: "retrack", 3.0: "retrack λ 3"}
COUNTS = {1: "retrack K 1", 10: "retrack K 10"}  # besides all of them


def sweep(bench: Bench, names: Sequence[str] = tuple(SWEEPS)) -> None:
    """Unlearn every group under the named hyper-parameters and keep squared errors along the way."""
    calibration = bench.beside(bench.run.root / "calibration")
    calibration.stage("sample", "--num", "64", "--seed", "1")
    for seed in range(bench.seeds):
        scored = ("-c", "attribute/elbo.yaml", "--operator", "retrain", "--seed", str(seed))
        asked = ("--queries", str(calibration.run.queries))
        bench.stage("attribute", *scored, *asked, label=f"calibration retrain {seed}")
    for name in swept(bench, names):
        root = folder(bench, name)
        one = bench.beside(root)
        watched = fragment(
            root / "watched.yaml",
            [bench.run.queries, calibration.run.queries],
            root,
            steps(bench, name),
            SCORING,
        )
        one.stage(
            "unlearn", *SWEEPS[name], "-c", watched, "--steps", str(steps(bench, name)[-1]), label="unlearn"
        )


def swept(bench: Bench, names: Sequence[str] = tuple(SWEEPS)) -> list[str]:
    """Those of some hyper-parameters that a sweep is large enough for."""
    return [name for name in names if name in list(SWEEPS)[: bench.size.kinds]]


def steps(bench: Bench, name: str) -> list[int]:
    """After how many steps a set of hyper-parameters is scored; all but a few stop early."""
    size = bench.size
    return [step for step in size.unlearning if step <= size.short or name in LONG]


def folder(bench: Bench, name: str) -> Path:
    """The run folder of one set of hyper-parameters."""
    return bench.run.root / "sweeps" / name.replace(" ", "-")


class Sweep:
    """What a sweep measured, on one set of queries.

    Args:
        bench: The benchmark that was swept.
        calibration: Whether on the calibration queries, else on the evaluated ones.
    """

    def __init__(self, bench: Bench, calibration: bool) -> None:
        self.bench = bench
        run = RunFolder(bench.run.root / "calibration") if calibration else bench.run
        names = ["queries"] if calibration else []
        self.queries = run.queries
        seeds = range(bench.seeds)
        self.oracles = [ScoreTable.load(bench.run.table("retrain", seed, *names)) for seed in seeds]
        self.groups = self.oracles[0].groups
        self.schedule = open_schedule(bench.run.full)
        self.full = self._full()

    def oracle(self, weighting: Weighting) -> Tensor:
        """``[seeds, queries, groups]``."""
        return torch.stack([table.select(weighting=weighting).matrix() for table in self.oracles])

    def scores(self, name: str, step: int, weighting: Weighting) -> Tensor:
        """``[queries, groups]`` after so many steps under the named hyper-parameters."""
        root = folder(self.bench, name)
        found = [
            SquaredErrors.load(snapshot(root, self.queries, group, 0, step), {}) for group in self.groups
        ]
        plan = SCORING.plan(self.schedule)
        values = [elbo(e.errors, e.timesteps, plan, self.schedule, weighting) for e in (self.full, *found)]
        return torch.stack([delta_elbo(values[0], value) for value in values[1:]], dim=1)

    def _full(self) -> SquaredErrors:
        """Errors of the full model, measured as those along the training were."""
        path = snapshot(self.bench.run.root / "sweeps", self.queries, "full", 0, 0)
        if not path.is_file():
            model = open_full(self.bench.run.full, LightningModule()).model
            asked = load_queries(self.queries, IMAGE_SHAPE[model.denoiser.config["in_channels"]])
            errors, timesteps = squared_errors(model, asked, SCORING)
            SquaredErrors(asked.ids, errors, timesteps, vars(SCORING.record(model.schedule))).save(path)
        return SquaredErrors.load(path, {})


def chosen(sweep: Sweep, weighting: Weighting, names: Sequence[str] = tuple(SWEEPS)) -> pd.DataFrame:
    """All hyper-parameters, best first, by the calibration groups and queries alone."""
    candidates = {
        f"{name}, {step} steps": sweep.scores(name, step, weighting)
        for name in swept(sweep.bench, names)
        for step in steps(sweep.bench, name)
    }
    groups = sweep.groups
    calibration = groups[: len(groups) // 3]  # the others are held out
    return choose(candidates, sweep.oracle(weighting).mean(0), groups, calibration)


def along(sweep: Sweep, names: Sequence[str]) -> list[dict[str, object]]:
    """Agreement with the mean of the oracle's seeds along the steps, for a figure."""
    shown = swept(sweep.bench, names)
    return [
        row
        for step in sweep.bench.size.unlearning
        for row in _points(
            sweep, step, {name: (name, step) for name in shown if step in steps(sweep.bench, name)}
        )
    ]


def by_setting(sweep: Sweep, names: Mapping[float, str]) -> list[dict[str, object]]:
    """Agreement of retrack along one hyper-parameter, after the steps that all settings were given."""
    return [
        row
        for x, name in names.items()
        if name in swept(sweep.bench)
        for row in _points(sweep, x, {"retrack": (name, sweep.bench.size.short)})
    ]


def _points(sweep: Sweep, x: float, chosen: Mapping[str, tuple[str, int]]) -> list[dict[str, object]]:
    """Rows of ``figures.lines`` at one x: agreement of each label's hyper-parameters and number of steps."""
    rows: list[dict[str, object]] = []
    for weighting in get_args(Weighting):
        scores = {label: sweep.scores(name, step, weighting) for label, (name, step) in chosen.items()}
        found = agreement(scores, sweep.oracle(weighting)).metrics
        own = found[found.method == "oracle"].set_index("metric").value
        against = found[(found.yardstick == "other seeds") & (found.method != "oracle")]
        rows += [
            {
                "x": x,
                "method": row.method,
                "metric": f"{row.metric} {weighting}",
                **{name: float(getattr(row, name)) for name in ("value", "low", "high")},
                "oracle": float(own[row.metric]),
            }
            for row in against[against.metric.isin(SHOWN)].itertuples()
        ]
    return rows


def run(asked: Asked) -> None:
    """Sweep the digits: a table of what the calibration chose, and a figure along each hyper-parameter."""
    bench = oracles.digits(asked, weights=True)
    sweep(bench)
    shown, held_out = Sweep(bench, calibration=False), Sweep(bench, calibration=True)
    rows = [row for weighting in get_args(Weighting) for row in _rows(shown, held_out, weighting)]
    notes = (
        "Chosen by R² of the oracle's scores on 3 of the 10 groups and 64 queries of their own; agreement "
        "is on all groups and the 160 evaluated queries, with the mean of the oracle seeds."
    )
    write_table(asked.docs, "sweeps", asked.command("sweeps"), rows, notes)
    subtitle = "digits, with 95 % intervals; dashed: the oracle's agreement with itself"
    figures.lines(asked.docs, along(shown, LONG), "steps", "steps", "Agreement along unlearning", subtitle)
    figures.lines(
        asked.docs,
        by_setting(shown, WEIGHTS),
        "λ",
        "forget_weight",
        "The weight of the forget term",
        subtitle,
    )
    sizes = shown.oracles[0].record.group_sizes.values()
    counts = {**COUNTS, sum(sizes) - max(sizes): "retrack"}
    figures.lines(
        asked.docs, by_setting(shown, counts), "K", "neighbours", "Neighbours of ReTrack's target", subtitle
    )


def cifar10(asked: Asked) -> None:
    """Whether retrack lacks steps where classes are hard to tell apart."""
    bench = oracles.cifar10(asked, weights=True)
    sweep(bench, ("retrack",))
    rows = along(Sweep(bench, calibration=False), ("retrack",))
    subtitle = "CIFAR-10 at 8 x 8, with 95 % intervals; dashed: the oracle's agreement with itself"
    figures.lines(asked.docs, rows, "steps", "steps_cifar10", "Agreement along unlearning", subtitle)


def _rows(shown: Sweep, calibration: Sweep, weighting: Weighting) -> list[dict[str, object]]:
    """Every set of hyper-parameters at the number of steps that calibration prefers for it, best first."""
    rows: list[dict[str, object]] = []
    seen: set[str] = set()
    for row in chosen(calibration, weighting).itertuples():
        name, step = row.candidate.removesuffix(" steps").rsplit(", ", 1)
        if name in seen:
            continue
        seen.add(name)
        found = agreement({name: shown.scores(name, int(step), weighting)}, shown.oracle(weighting)).metrics
        value = found[found.yardstick == "all seeds"].set_index("metric").value
        rows.append(
            {
                "weighting": weighting,
                "hyper-parameters": name,
                "steps": int(step),
                "R² on the calibration": f"{row.r2:.3f}",
                **{metric: f"{value[metric]:.3f}" for metric in ("top1", "ndcg@3", "spearman")},
            }
        )
    return rows
