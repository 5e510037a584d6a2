"""The attributor of guidance: all counterfactuals from one classifier and one pass of the full model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from guda_lightning.attribution.elbo import ELBOAttributor
from guda_lightning.attribution.scoring import Scoring, noised_queries
from guda_lightning.counterfactuals import GUIDANCE
from guda_lightning.diffusion import DiffusionModel, FullModel, evaluating
from guda_lightning.files import sha256_json
from guda_lightning.functional.elbo import squared_error
from guda_lightning.grouping import Grouping, coalition
from guda_lightning.guidance import GroupPosterior, open_posterior
from guda_lightning.scores import SquaredErrors
from guda_lightning.types import Queries


class GuidanceAttributor(ELBOAttributor):
    """``ELBO(full) − ELBO(full, guided away from the group)``, from the classifier of a store.

    Its arguments are those of every ``ELBOAttributor``.
    """

    method = GUIDANCE

    def fit(self, full: FullModel, data: Any, grouping: Grouping | None) -> GuidanceAttributor:
        """Read the classifier and refuse one that was made from something else.

        Args:
            full: The full model.
            data: Not looked at.
            grouping: Today's groups, which the classifier must have been made from; None takes its own.

        Raises:
            StoreError: There is no classifier, or one made from another full model, grouping or schedule.
            GroupError: A group does not exist, or covers all data.
        """
        self._take(full, grouping)
        self._stored = open_posterior(
            self.store,
            full.model.schedule,
            seed=self.seed,
            hparams=self.hparams,
            expect=self._expect,
            device=self.device,
        )
        self._hparams_hash = self._stored.record.hparams_hash
        self.fitted_groups = self._asked_groups(self._stored.posterior.groups)
        known = self._stored.posterior.groups
        coalitions = [(group,) if group in known else coalition(group) for group in self.fitted_groups]
        self._removed = self._stored.posterior.removed(coalitions)
        self._hashes = {
            group: sha256_json([GUIDANCE, full.hash, self._stored.hash, group])
            for group in self.fitted_groups
        }
        return self

    def record(self, queries: Queries) -> dict[str, object]:
        """What identifies the scores of these queries, the classifier's weights among it."""
        return {**super().record(queries), "classifier": self._stored.hash}

    def evaluations(self, queries: Queries) -> int:
        """Evaluations of the full model that scoring these queries still needs, for all groups together."""
        needed = len(queries) * self.scoring.plan(self._full.model.schedule).evaluations
        return needed if self._missing(queries) else 0

    def evaluations_of(self, per_model: int) -> int:
        """See ``ELBOAttributor.evaluations_of``: one pass of the full model."""
        return per_model

    def measure(self, queries: Queries, scoring: Scoring, wanted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See ``ELBOAttributor.measure``; what is not wanted would cost nothing."""
        network = copy.deepcopy(self._full.model.denoiser).to(self.device)
        values, timesteps = guided_squared_errors(
            DiffusionModel(network, self._full.model.schedule, self._full.model.prediction),
            self._stored.posterior,
            self._removed,
            queries,
            scoring,
            device=self.device,
            on_batch=self.on_batch,
        )
        groups = values[1:].clone()
        groups[~wanted.T] = torch.nan
        return values[0], groups, timesteps

    def _all_errors(self, queries: Queries) -> dict[str | None, SquaredErrors]:
        identities = self._identities(queries)
        cached = {group: self._cached(identity) for group, identity in identities.items()}
        kept = {group: errors for group, errors in cached.items() if errors is not None}
        if len(kept) == len(identities):
            return kept
        everything = torch.ones(len(queries), len(self.fitted_groups), dtype=torch.bool)
        full, groups, timesteps = self.measure(queries, self.scoring, everything)
        values = torch.cat([full[None], groups])
        for column, (group, identity) in enumerate(identities.items()):  # the full model, then the groups
            if group not in kept:
                kept[group] = SquaredErrors(queries.ids, values[column], timesteps, identity)
                self._keep(kept[group])
        return kept


def guided_squared_errors(
    full: DiffusionModel,
    posterior: GroupPosterior,
    removed: Tensor,
    queries: Queries,
    scoring: Scoring,
    *,
    device: torch.device | str = "cpu",
    on_batch: Callable[[int], None] = lambda evaluations: None,
) -> tuple[Tensor, Tensor]:
    """Evaluate the full model once on every (query, timestep, draw), and every coalition with it.

    Args:
        full: The full model; its train/eval modes come back afterwards.
        posterior: The classifier.
        removed: ``[coalitions, atoms]`` bool.
        queries: ``Q`` queries.
        scoring: Seed, plan, batch size and precision.
        device: Where both models are.
        on_batch: Told the number of evaluations after every batch.

    Returns:
        Squared errors ``[1 + coalitions, queries, strata, draws]`` float64, the full model's first, and their
        timesteps ``[queries, strata, draws]`` int64, on the CPU.
    """
    timesteps = scoring.plan(full.schedule).draw(scoring.seed, queries.ids)
    errors = torch.empty(1 + len(removed), timesteps.numel(), dtype=torch.float64)
    with evaluating(full.denoiser):
        for batch in noised_queries(queries, scoring, full.schedule, device):
            with scoring.autocast(device):
                predicted = full.predicted_noise(batch.x_t, batch.timesteps, batch.labels)
            errors[0, batch.rows] = squared_error(batch.noise, predicted).cpu()
            guided = posterior.errors(
                batch.noise, predicted, batch.x_t, batch.timesteps, removed, batch.labels
            )
            errors[1:, batch.rows] = guided.T.cpu()
            on_batch(len(batch.rows))
    return errors.view(-1, *timesteps.shape), timesteps
