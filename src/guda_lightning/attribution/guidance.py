"""Scores by guidance: all counterfactuals from one posterior and one pass of the full model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from guda_lightning.attribution.elbo import FittedELBOAttributor
from guda_lightning.attribution.scoring import NoisedQueries, joint_squared_errors, shared_errors
from guda_lightning.functional.elbo import squared_error
from guda_lightning.posteriors import GroupPosterior
from guda_lightning.scores import Scoring, SquaredErrors
from guda_lightning.types import Queries


@dataclass(frozen=True, eq=False, kw_only=True)
class FittedGuidance(FittedELBOAttributor):
    """Scores by the full model, guided away from each group by a posterior.

    Attributes:
        posterior: Of the groups, on the device of the execution.
        removed: What of the posterior each group removes, as ``GroupPosterior.removed`` gives it.
        folders: Where the posterior and its parts are stored.
    """

    posterior: GroupPosterior
    removed: Tensor
    folders: tuple[Path, ...]

    def made(self) -> tuple[Path, ...]:
        """The folders of the posterior and its parts."""
        return self.folders

    def evaluations(self, queries: Queries) -> int:
        """Evaluations of the full model that scoring these queries still needs, for all groups together."""
        needed = len(queries) * self.scoring.plan(self.context.full.model.schedule).evaluations
        return needed if self._missing(queries) else 0

    def evaluations_of(self, per_model: int) -> int:
        """Network evaluations of all groups together, from those of one model: one pass of the full model."""
        return per_model

    def measure(self, queries: Queries, scoring: Scoring, wanted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Squared errors of the full model and of some counterfactuals on the same noise; nothing is kept.

        Args:
            queries: ``Q`` queries.
            scoring: How to score them.
            wanted: ``[Q, groups]`` bool, which scores are needed; what is not would cost nothing.

        Returns:
            ``[Q, strata, draws]`` of the full model, ``[groups, Q, strata, draws]`` with NaN where it is not
            wanted, and the timesteps ``[Q, strata, draws]``.
        """
        execution, model = self.context.execution, self._network()

        def measure(part: Queries) -> tuple[Tensor, Tensor]:
            return joint_squared_errors(
                [model],
                part,
                scoring,
                self._joint_errors,
                device=execution.device,
                on_batch=execution.on_evaluations,
            )

        values, timesteps = shared_errors(measure, queries, execution.ranks)
        groups = values[1:].clone()
        groups[~wanted.T] = torch.nan
        return values[0], groups, timesteps

    def _joint_errors(self, batch: NoisedQueries, predictions: Sequence[Tensor]) -> Tensor:
        """Squared errors ``[batch, 1 + groups]``, the full model's first."""
        (predicted,) = predictions
        full = squared_error(batch.noise, predicted)
        groups = self.posterior.errors(
            batch.noise, predicted, batch.x_t, batch.timesteps, self.removed, batch.labels
        )
        return torch.cat([full[:, None], groups], dim=1)

    def _all_errors(self, queries: Queries) -> dict[str | None, SquaredErrors]:
        identities = self._identities(queries)
        cached = {group: self._cached(identity) for group, identity in identities.items()}
        kept = {group: errors for group, errors in cached.items() if errors is not None}
        if len(kept) == len(identities):
            return kept
        everything = torch.ones(len(queries), len(self.groups), dtype=torch.bool)
        full, groups, timesteps = self.measure(queries, self.scoring, everything)
        values = torch.cat([full[None], groups])
        for column, (group, identity) in enumerate(identities.items()):  # the full model, then the groups
            if group not in kept:
                kept[group] = SquaredErrors(queries.ids, values[column], timesteps, identity)
                self._keep(kept[group])
        return kept
