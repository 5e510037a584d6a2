"""What guidance gains from a mixture of posteriors, by noise level: classifiers and kernels.

Squared errors of every mixture of corrections follow from the products of the full model's residual and of each
posterior's correction, which are measured once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from benchmarks import oracles
from benchmarks.agree import FIFTY
from benchmarks.stages import Asked, Bench, clock
from benchmarks.tables import write_table
from guda_lightning.attribution.scoring import NoisedQueries, joint_squared_errors
from guda_lightning.data import Digits, GroupDataModule, Parquet, load_queries
from guda_lightning.diffusion import DiffusionModel, open_full
from guda_lightning.evaluation.magnitudes import magnitudes
from guda_lightning.functional.elbo import paired_difference
from guda_lightning.functional.ranking import ndcg, top1_agreement
from guda_lightning.posteriors import (
    ClassifierStore,
    GroupPosterior,
    ImageKernel,
    KernelLevel,
    PatchKernel,
    fit_windows,
    open_posterior,
)
from guda_lightning.scores import ScoreTable, Scoring
from guda_lightning.types import Queries, Weighting

CLASSIFIERS: Mapping[str, Sequence[str]] = {
    "dense classifier": ("--classifier.steps", "1500"),
    "convolutional classifier": ("--classifier.channels", "[16,32]", "--classifier.steps", "1500"),
}
PATCH, IMAGE = "patch kernel", "image kernel"
SCORING = Scoring(draws=1)
SHOWN: tuple[Weighting, ...] = ("uniform", "middle")


@dataclass(frozen=True)
class Products:
    """What the squared errors of every mixture follow from.

    Attributes:
        names: The full model's residual first, then the posteriors.
        values: ``[queries, strata, groups, names, names]``, products of residual and corrections.
        timesteps: ``[queries, strata]``.
        model: The full model.
    """

    names: tuple[str, ...]
    values: Tensor
    timesteps: Tensor
    model: DiffusionModel

    def scores(self, shares: Mapping[str, Tensor | float], weighting: Weighting, mean_of: str) -> Tensor:
        """Scores ``[queries, groups]`` of a mixture.

        Args:
            shares: Of each posterior, a number or one at each timestep ``[timesteps]``.
            weighting: Of the timesteps.
            mean_of: ``corrections``, or ``scores``.
        """
        ones = torch.ones(len(self.model.schedule), dtype=torch.float64)
        share = torch.stack([ones * shares.get(name, 0.0) for name in self.names[1:]], dim=1)[self.timesteps]
        if mean_of == "corrections":
            of = torch.cat([torch.ones_like(share[..., :1]), share], dim=2)[:, :, None]
            errors = (of[..., None, :] @ self.values @ of[..., :, None])[..., 0, 0]
        else:
            single = self.values.diagonal(dim1=3, dim2=4) + 2 * self.values[..., 0]
            errors = self.values[..., 0, 0] + (single[..., 1:] * share[:, :, None]).sum(dim=3)
        plan, schedule = SCORING.plan(self.model.schedule), self.model.schedule
        full = self.values[:, :, 0, 0, 0, None]
        of_groups = [
            paired_difference(full, one[..., None], self.timesteps[..., None], plan, schedule, weighting)[0]
            for one in errors.unbind(2)
        ]
        return torch.stack(of_groups, dim=1)


def products(
    model: DiffusionModel, posteriors: Mapping[str, GroupPosterior], groups: Sequence[str], queries: Queries
) -> Products:
    """Measure them for the removal of each group."""
    removed = {name: posterior.removed([(group,) for group in groups]) for name, posterior in posteriors.items()}

    def of(batch: NoisedQueries, predicted: Tensor) -> Tensor:
        residual = (batch.noise - predicted).double().flatten(1)
        sigma = model.schedule.at(batch.timesteps, like=residual)[1]
        moved = [
            posterior.corrections(batch.x_t, batch.timesteps, batch.labels)(removed[name]).double().flatten(2)
            * sigma[:, None]
            for name, posterior in posteriors.items()
        ]
        every = torch.stack([residual[:, None].expand_as(moved[0]), *moved], dim=2)
        return (every @ every.mT).flatten(1)

    values, timesteps = joint_squared_errors(model, queries, SCORING, of)
    names = ("residual", *posteriors)
    shaped = values[..., 0].permute(1, 2, 0).unflatten(2, (len(groups), len(names), len(names)))
    return Products(names, shaped, timesteps[..., 0], model)


def by_level(levels: Sequence[KernelLevel], share: Sequence[float], timesteps: int) -> Tensor:
    """A share at each noise level as one at each timestep ``[timesteps]``."""
    found = torch.zeros(timesteps, dtype=torch.float64)
    for level, value in zip(levels, share, strict=True):
        found[level.first : level.last + 1] = value
    return found
