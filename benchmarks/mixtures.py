"""What guidance gains from a mixture of posteriors, by noise level: classifiers and kernels.

Squared errors of every mixture follow from the products of the full model's residual and of each posterior's
correction, which are measured once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from benchmarks import oracles
from benchmarks.agree import FIFTY
from benchmarks.stages import Asked, Bench
from benchmarks.tables import write_table
from guda_lightning.attribution.scoring import NoisedQueries, joint_squared_errors
from guda_lightning.data import GroupDataModule, HeldOutDataModule, Parquet, load_queries
from guda_lightning.diffusion import DiffusionModel, evaluating, open_full
from guda_lightning.evaluation.magnitudes import magnitudes
from guda_lightning.functional.elbo import paired_difference
from guda_lightning.functional.ranking import ndcg, top1_agreement
from guda_lightning.posteriors import (
    GroupPosterior,
    ImageKernel,
    KernelLevel,
    PatchKernel,
    PosteriorStore,
    fit_windows,
    open_posterior,
)
from guda_lightning.scores import ScoreTable, Scoring
from guda_lightning.types import Queries, Weighting

DENSE, CONVOLUTIONAL = "dense classifier", "convolutional classifier"
CLASSIFIERS: Mapping[str, Sequence[str]] = {
    DENSE: ("--posterior", "classifier", "--classifier.channels", "[]"),
    CONVOLUTIONAL: ("--posterior", "classifier", "--classifier.channels", "[16,32]"),
}
PATCH, IMAGE = "patch kernel", "image kernel"
SCORING = Scoring(draws=1)
SHOWN: tuple[Weighting, ...] = ("uniform", "middle")
HELD_OUT = 180  # samples that shares are fitted on
NOTES = (
    "160 queries × 50 timesteps: agreement with the mean of the oracle's seeds, and slope and R² within "
    "queries of the oracle's scores on the method's. What the kernel leaves is shared equally by the two "
    "classifiers; mse and r² are those of the patch kernel at each noise level. Fitted shares minimise the "
    "squared error of every counterfactual on samples that are in none of its groups and that no posterior "
    "holds."
)


class Mixture(NamedTuple):
    """How posteriors are mixed.

    Attributes:
        shares: Of each posterior, a number or one at each timestep ``[timesteps]``; 0 for the others.
        scores: Whether the mean is one of scores, in place of corrections.
    """

    shares: Mapping[str, Tensor | float]
    scores: bool = False


@dataclass(frozen=True)
class Products:
    """What the squared errors of every mixture follow from.

    Attributes:
        names: The posteriors.
        values: ``[queries, strata, groups, 1 + names, 1 + names]``, products of residual and corrections.
        timesteps: ``[queries, strata]``.
        model: The full model.
    """

    names: tuple[str, ...]
    values: Tensor
    timesteps: Tensor
    model: DiffusionModel

    def scores(self, mixture: Mixture, weighting: Weighting) -> Tensor:
        """Scores ``[queries, groups]``."""
        schedule = self.model.schedule
        ones = torch.ones(len(schedule), dtype=torch.float64)
        each = [ones * mixture.shares.get(name, 0.0) for name in self.names]
        share = torch.stack(each, dim=1)[self.timesteps][:, :, None]
        full = self.values[..., 0, 0]
        if mixture.scores:
            squares = self.values.diagonal(dim1=3, dim2=4) + 2 * self.values[..., 0]
            errors = full + (squares[..., 1:] * share).sum(dim=3)
        else:
            of = torch.cat([torch.ones_like(share[..., :1]), share], dim=3)
            errors = (of[..., None, :] @ self.values @ of[..., None])[..., 0, 0]
        at, plan = self.timesteps[..., None], SCORING.plan(schedule)
        pairs = zip(full.unbind(2), errors.unbind(2), strict=True)
        return torch.stack(
            [
                paired_difference(a[..., None], b[..., None], at, plan, schedule, weighting)[0]
                for a, b in pairs
            ],
            dim=1,
        )


def run(asked: Asked) -> None:
    """Compare mixtures on the digits and, if they are given, on images of CIFAR-10."""
    benches = {"digits": (oracles.digits(asked), oracles.digits_data(asked))}
    if asked.cifar10 is not None:
        benches["CIFAR-10 8 x 8"] = oracles.cifar10(asked), _cifar10(asked)
    rows = [row for name, (bench, data) in benches.items() for row in _rows(name, bench, data)]
    write_table(asked.docs, "mixtures", asked.command("mixtures"), rows, NOTES)


def _cifar10(asked: Asked) -> GroupDataModule:
    source = Parquet(str(asked.cifar10), "img", "label", label_names=CIFAR10)
    return GroupDataModule(source, image_size=8, limit=asked.size.images, horizontal_flip=True)


CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def _rows(name: str, bench: Bench, data: GroupDataModule) -> list[dict[str, object]]:
    model = open_full(bench.run.full, LightningModule()).model
    classifiers = {}
    for kind, options in CLASSIFIERS.items():
        one = bench.beside(bench.run.root / "mixtures" / kind.replace(" ", "-"))
        one.stage("guide", *options, label="guide")
        stored = open_posterior(PosteriorStore(one.run.store), "classifier", model.schedule, seed=0)
        classifiers[kind] = stored.posterior
    levels = fit_windows(data, model)
    for level in levels:
        print(f"{name}: {level}")
    groups, split = data.grouping.names, HeldOutDataModule(data, 0.1, 1, seed=0)
    held_out = split.held_out[:HELD_OUT]
    queries = Queries(
        tuple(data.ids[row] for row in held_out), data.seen_inputs(held_out)[: len(held_out)], None
    )
    kept = {**classifiers, PATCH: PatchKernel.of(data, model.schedule, levels, indices=split.kept)}
    apart = torch.from_numpy(~data.grouping.membership()[held_out])
    fitted = fitted_shares(products(model, kept, groups, queries), apart, levels)
    every = {
        **classifiers,
        PATCH: PatchKernel.of(data, model.schedule, levels),
        IMAGE: ImageKernel.of(data, model.schedule),
    }
    found = products(model, every, groups, load_queries(bench.run.queries, data.image_shape))
    oracle = _oracle(bench, groups)
    rows = []
    if len(oracle[SHOWN[0]]) > 1:
        rows.append({"data": name, "posterior": "another oracle seed", **_of_seeds(oracle)})
    for kind, mixture in mixtures(levels, fitted, len(model.schedule)).items():
        cells = {w: _cells([(found.scores(mixture, w), oracle[w].mean(dim=0))], w) for w in SHOWN}
        rows.append({"data": name, "posterior": kind, **cells[SHOWN[0]], **cells[SHOWN[1]]})
    return rows


def products(
    model: DiffusionModel, posteriors: Mapping[str, GroupPosterior], groups: Sequence[str], queries: Queries
) -> Products:
    """Measure them for the removal of each group."""
    removed = {
        name: posterior.removed([(group,) for group in groups]) for name, posterior in posteriors.items()
    }

    def of(batch: NoisedQueries, predicted: Sequence[Tensor]) -> Tensor:
        residual = (batch.noise - predicted[0]).double().flatten(1)
        sigma = model.schedule.at(batch.timesteps, like=residual)[1][:, :, None]
        moved = [
            sigma * posterior.corrections(batch.x_t, batch.timesteps, batch.labels)(removed[name]).flatten(2)
            for name, posterior in posteriors.items()
        ]
        every = torch.stack([residual[:, None].expand_as(moved[0]), *moved], dim=2)
        return (every @ every.mT).flatten(1)

    with evaluating(model.denoiser):
        values, timesteps = joint_squared_errors([model], queries, SCORING, of)
    side = 1 + len(posteriors)
    shaped = values[..., 0].permute(1, 2, 0).unflatten(2, (len(groups), side, side))
    return Products(tuple(posteriors), shaped, timesteps[..., 0], model)


def fitted_shares(held_out: Products, apart: Tensor, levels: Sequence[KernelLevel]) -> list[float]:
    """The patch kernel's share at each noise level that denoises held-out samples best.

    Given a sample that is in none of the groups S, no denoiser beats that of the data without S on average:
    the squared error of the counterfactual is a loss for it, and quadratic in the share.

    Args:
        held_out: Of the two classifiers and the patch kernel.
        apart: ``[samples, groups]`` bool, which groups each sample is not in.
        levels: The noise levels.
    """
    shares = []
    for level in levels:
        inside = (held_out.timesteps >= level.first) & (held_out.timesteps <= level.last)
        total = held_out.values[inside[:, :, None] & apart[:, None]].sum(dim=0)
        start, step = torch.tensor([1, 0.5, 0.5, 0]).double(), torch.tensor([0, -0.5, -0.5, 1]).double()
        shares.append(float((-(start @ total @ step) / (step @ total @ step)).clamp(0, 1)))
    return shares


def mixtures(levels: Sequence[KernelLevel], fitted: Sequence[float], timesteps: int) -> dict[str, Mixture]:
    """What is compared."""

    def mixed(shares: Sequence[float], scores: bool = False) -> Mixture:
        kernel = torch.zeros(timesteps, dtype=torch.float64)
        for level, share in zip(levels, shares, strict=True):
            kernel[level.first : level.last + 1] = share
        rest = (1 - kernel) / 2
        return Mixture({DENSE: rest, CONVOLUTIONAL: rest, PATCH: kernel}, scores)

    half = [0.5 * (level.mse < 0.05) for level in levels]
    return {
        **{name: Mixture({name: 1.0}) for name in (DENSE, CONVOLUTIONAL, PATCH, IMAGE)},
        "both classifiers": mixed([0.0] * len(levels)),
        "half kernel where mse < .05": mixed(half),
        "half kernel where mse < .05, scores": mixed(half, scores=True),
        "half kernel": mixed([0.5] * len(levels)),
        "r²/2 kernel": mixed([max(0.0, level.r2) / 2 for level in levels]),
        ".05/(.05 + mse) kernel": mixed([0.05 / (0.05 + level.mse) for level in levels]),
        "fitted share of kernel": mixed(fitted),
    }


def _oracle(bench: Bench, groups: Sequence[str]) -> dict[Weighting, Tensor]:
    """``[seeds, queries, groups]`` under every weighting that is shown."""
    tables = []
    for seed in range(bench.seeds):
        scored = ("-c", "attribute/elbo.yaml", "--scoring.draws", "1", "--name", FIFTY)
        of = ("--operator", "retrain", "--seed", str(seed))
        bench.stage("attribute", *scored, *of, label=f"attribute retrain {seed} {FIFTY}")
        tables.append(ScoreTable.load(bench.run.table("retrain", seed, FIFTY)))
    order = [tables[0].groups.index(group) for group in groups]
    return {
        w: torch.stack([t.select(weighting=w).matrix()[:, order] for t in tables]).double() for w in SHOWN
    }


def _of_seeds(oracle: Mapping[Weighting, Tensor]) -> dict[str, object]:
    """Each seed against the mean of the others."""
    cells: dict[str, object] = {}
    for weighting, scores in oracle.items():
        rest = (scores.sum(dim=0) - scores) / (len(scores) - 1)
        cells |= _cells(list(zip(scores, rest, strict=True)), weighting)
    return cells


def _cells(pairs: Sequence[tuple[Tensor, Tensor]], weighting: Weighting) -> dict[str, object]:
    found = []
    for scores, oracle in pairs:
        sizes = magnitudes({"": scores}, oracle[None], resamples=2, level=0.5, seed=0)
        within = sizes[sizes.pooling == "within"].set_index("quantity").value
        ranks = top1_agreement(scores, oracle).double().mean(), ndcg(scores, oracle, 3).mean()
        found.append([*map(float, ranks), within["slope"], within["r2"]])
    means = torch.tensor(found, dtype=torch.float64).mean(dim=0).tolist()
    heads = (f"{name} {weighting}" for name in ("top1", "ndcg@3", "slope", "R²"))
    return dict(zip(heads, (f"{value:.3g}" for value in means), strict=True))
