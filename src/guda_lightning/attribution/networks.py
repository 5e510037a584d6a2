"""Scores by counterfactuals that are networks of their own, one a group."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from guda_lightning.attribution.elbo import FittedELBOAttributor
from guda_lightning.attribution.prefetch import in_turn
from guda_lightning.attribution.scoring import shared_errors, squared_errors
from guda_lightning.counterfactuals import CounterfactualKey, CounterfactualStore
from guda_lightning.diffusion import DiffusionModel
from guda_lightning.scores import Scoring, SquaredErrors
from guda_lightning.types import Queries


@dataclass(frozen=True, eq=False, kw_only=True)
class FittedNetworks(FittedELBOAttributor):
    """Scores by counterfactuals of a store, which take turns in one copy of the full model.

    Attributes:
        store: Where they lie.
        keys: The counterfactual of each group.
    """

    store: CounterfactualStore
    keys: Mapping[str, CounterfactualKey]

    def made(self) -> tuple[Path, ...]:
        """The folder of each counterfactual."""
        return tuple(self.store.path(key) for key in self.keys.values())

    def evaluations(self, queries: Queries) -> int:
        """Network evaluations that scoring these queries still needs."""
        per_model = len(queries) * self.scoring.plan(self.context.full.model.schedule).evaluations
        return self._missing(queries) * per_model

    def evaluations_of(self, per_model: int) -> int:
        """Network evaluations of all groups together, from those of one model: one pass a model."""
        return per_model * (1 + len(self.groups))

    def last_quarter(self, group: str) -> float | None:
        """How much of its forgetting a counterfactual did in the last quarter of its steps; None: unknown."""
        return self.store.record(self.keys[group]).last_quarter

    def measure(self, queries: Queries, scoring: Scoring, wanted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Squared errors of the full model and of some counterfactuals on the same noise; nothing is kept.

        Args:
            queries: ``Q`` queries.
            scoring: How to score them.
            wanted: ``[Q, groups]`` bool, which scores are needed; a group that no query needs is not read.

        Returns:
            ``[Q, strata, draws]`` of the full model, ``[groups, Q, strata, draws]`` with NaN where it is not
            wanted, and the timesteps ``[Q, strata, draws]``.
        """
        model = self._network()
        full, timesteps = self._errors(model, queries, scoring)
        errors = full.new_full((len(self.groups), *full.shape), torch.nan)
        rows = {name: wanted[:, column].nonzero().flatten() for column, name in enumerate(self.groups)}
        needed = [group for group, chosen in rows.items() if len(chosen)]
        with closing(self._become_each(model, needed)) as counterfactuals:
            for group in counterfactuals:
                part = queries.take(rows[group].tolist())
                errors[self.groups.index(group), rows[group]], _ = self._errors(model, part, scoring)
        return full, errors, timesteps

    def _all_errors(self, queries: Queries) -> dict[str | None, SquaredErrors]:
        identities = self._identities(queries)
        cached = {group: self._cached(identity) for group, identity in identities.items()}
        found = {group: errors for group, errors in cached.items() if errors is not None}
        missing = [group for group in self.groups if group not in found]
        if len(found) < len(identities):
            model = self._network()
            if None not in found:
                found[None] = self._measured(model, queries, identities[None])
            with closing(self._become_each(model, missing)) as counterfactuals:
                for group in counterfactuals:
                    found[group] = self._measured(model, queries, identities[group])
        return found

    def _measured(
        self, model: DiffusionModel, queries: Queries, identity: dict[str, object]
    ) -> SquaredErrors:
        values, timesteps = self._errors(model, queries, self.scoring)
        errors = SquaredErrors(queries.ids, values, timesteps, identity)
        self._keep(errors)
        return errors

    def _errors(self, model: DiffusionModel, queries: Queries, scoring: Scoring) -> tuple[Tensor, Tensor]:
        execution = self.context.execution

        def measure(part: Queries) -> tuple[Tensor, Tensor]:
            return squared_errors(
                model, part, scoring, device=execution.device, on_batch=execution.on_evaluations
            )

        return shared_errors(measure, queries, execution.ranks)

    def _become_each(self, model: DiffusionModel, groups: Sequence[str]) -> Generator[str, None, None]:
        """Make a copy of the full model the counterfactual of one group after another."""
        yield from in_turn(groups, self._read, partial(self._become, model))

    def _read(self, group: str) -> Mapping[str, Tensor]:
        return self.store.load(self.keys[group], expect=self.context.provenance)[0]

    def _become(self, model: DiffusionModel, group: str, weights: Mapping[str, Tensor]) -> None:
        """Make a copy of the full model, or the counterfactual of another group, that of this one."""
        self._set_weights(model, weights, self.store.path(self.keys[group]))
