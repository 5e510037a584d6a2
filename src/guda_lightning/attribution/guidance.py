"""The attributor of guidance: all counterfactuals from one classifier and one pass of the full model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from guda_lightning.attribution.elbo import ELBOAttributor
from guda_lightning.attribution.scoring import NoisedQueries, joint_squared_errors, shared_errors
from guda_lightning.data.grouping import Grouping
from guda_lightning.diffusion import FullModel
from guda_lightning.functional.elbo import squared_error
from guda_lightning.posteriors import GUIDANCE, ClassifierStore, open_posterior
from guda_lightning.scores import SquaredErrors
from guda_lightning.scores.scoring import Scoring
from guda_lightning.storage.files import sha256_json
from guda_lightning.types import Queries, coalition


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
            ClassifierStore(self.store.root),
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
        model = self._network()

        def measure(part: Queries) -> tuple[Tensor, Tensor]:
            of = self._joint_errors
            return joint_squared_errors(model, part, scoring, of, device=self.device, on_batch=self.on_batch)

        values, timesteps = shared_errors(measure, queries, self.ranks)
        groups = values[1:].clone()
        groups[~wanted.T] = torch.nan
        return values[0], groups, timesteps

    def _joint_errors(self, batch: NoisedQueries, predicted: Tensor) -> Tensor:
        """Squared errors ``[batch, 1 + groups]``, the full model's first."""
        full = squared_error(batch.noise, predicted)
        groups = self._stored.posterior.errors(
            batch.noise, predicted, batch.x_t, batch.timesteps, self._removed, batch.labels
        )
        return torch.cat([full[:, None], groups], dim=1)

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
