"""The attributor of stored counterfactuals: opens a complete store, never trains."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from guda_lightning.attribution.elbo import ELBOAttributor
from guda_lightning.attribution.prefetch import in_turn
from guda_lightning.attribution.scoring import shared_errors, squared_errors
from guda_lightning.data.grouping import Grouping
from guda_lightning.diffusion import DiffusionModel, FullModel
from guda_lightning.diffusion.adapters import set_own_weights, whole_weights
from guda_lightning.distributed.sharding import is_sharded, load_whole
from guda_lightning.scores import SquaredErrors
from guda_lightning.scores.scoring import Scoring
from guda_lightning.types import Queries


class CounterfactualAttributor(ELBOAttributor):
    """``ELBO(full) − ELBO(counterfactual)`` for every group in a store.

    Args:
        store: Folder of the store.
        operator: Which counterfactuals, e.g. ``"retrack"``; None where the store holds one kind.
        scoring: How to score.
        **options: As for every ``ELBOAttributor``.
    """

    def __init__(
        self,
        store: str | Path,
        operator: str | None = None,
        scoring: Scoring = Scoring(),  # noqa: B008  (frozen)
        **options: Any,
    ) -> None:
        super().__init__(store, scoring, **options)
        self._operator = operator

    def fit(self, full: FullModel, data: Any, grouping: Grouping | None) -> CounterfactualAttributor:
        """Find the counterfactual of every group and refuse what was made from something else.

        Args:
            full: The full model.
            data: Not looked at.
            grouping: Today's groups, which the counterfactuals must have been made from; None takes the
                groups that the store holds.

        Raises:
            StoreError: One is missing, incomplete, or made from another full model, grouping or schedule.
            GroupError: A group does not exist.
        """
        self._take(full, grouping)
        groups = self._asked_groups(()) or None
        self._keys = self.store.select(self._operator, self.seed, hparams=self.hparams, groups=groups)
        self.fitted_groups, first = tuple(self._keys), next(iter(self._keys.values()))
        self.method, self._hparams_hash = first.operator, first.hparams_hash
        self._hashes = {
            group: self.store.check(key, expect=self._expect).weights_hash
            for group, key in self._keys.items()
        }
        return self

    def evaluations(self, queries: Queries) -> int:
        """Network evaluations that scoring these queries still needs."""
        per_model = len(queries) * self.scoring.plan(self._full.model.schedule).evaluations
        return self._missing(queries) * per_model

    def evaluations_of(self, per_model: int) -> int:
        """See ``ELBOAttributor.evaluations_of``: one pass a model."""
        return per_model * (1 + len(self.fitted_groups))

    def measure(self, queries: Queries, scoring: Scoring, wanted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See ``ELBOAttributor.measure``."""
        model = self._network()
        full, timesteps = self._errors(model, queries, scoring)
        groups = full.new_full((len(self.fitted_groups), *full.shape), torch.nan)
        rows = {name: wanted[:, column].nonzero().flatten() for column, name in enumerate(self.fitted_groups)}
        asked = [group for group, chosen in rows.items() if len(chosen)]
        with closing(self._become_each(model, asked)) as counterfactuals:
            for group in counterfactuals:
                part = queries.take(rows[group].tolist())
                groups[self.fitted_groups.index(group), rows[group]], _ = self._errors(model, part, scoring)
        return full, groups, timesteps

    def _all_errors(self, queries: Queries) -> dict[str | None, SquaredErrors]:
        identities = self._identities(queries)
        cached = {group: self._cached(identity) for group, identity in identities.items()}
        found = {group: errors for group, errors in cached.items() if errors is not None}
        missing = [group for group in self.fitted_groups if group not in found]
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
        def measure(part: Queries) -> tuple[Tensor, Tensor]:
            return squared_errors(model, part, scoring, device=self.device, on_batch=self.on_batch)

        return shared_errors(measure, queries, self.ranks)

    def _become_each(self, model: DiffusionModel, groups: Sequence[str]) -> Generator[str, None, None]:
        """Make a copy of the full model the counterfactual of one group after another."""
        yield from in_turn(groups, self._read, partial(self._become, model))

    def _read(self, group: str) -> Mapping[str, Tensor]:
        return self.store.load(self._keys[group], expect=self._expect)[0]

    def _become(self, model: DiffusionModel, group: str, weights: Mapping[str, Tensor]) -> None:
        """Make a copy of the full model, or the counterfactual of another group, that of this one."""
        origin = self.store.path(self._keys[group])
        if is_sharded(model.denoiser):  # an adapter would have to be there before the weights are spread
            load_whole(model.denoiser, whole_weights(self._full.model.denoiser, weights, origin))
        else:
            set_own_weights(model.denoiser, weights, origin)
