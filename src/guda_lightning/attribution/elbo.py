"""What attributors by ELBO(full) − ELBO(counterfactual) share, wherever the counterfactuals come from."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from guda_lightning.attribution.attributor import Attributor, refuse_no_queries
from guda_lightning.counterfactuals import CounterfactualStore
from guda_lightning.data import query_hash
from guda_lightning.data.grouping import Grouping
from guda_lightning.diffusion import DiffusionModel, FullModel
from guda_lightning.distributed.ranks import ALONE, Ranks
from guda_lightning.distributed.sharding import shard
from guda_lightning.scores import ScoreTable, SquaredErrors
from guda_lightning.scores.scoring import Scoring, score_table
from guda_lightning.scores.stored import error_identity, error_path
from guda_lightning.types import Queries, Weighting

_ERROR_BYTES = 16  # of a squared error and its timestep


class ELBOAttributor(Attributor):
    """``ELBO(full) − ELBO(counterfactual)`` for every group, from squared errors on the same noise.

    Args:
        store: Folder of the store.
        scoring: How to score.
        seed: Seed that the counterfactuals were made with.
        hparams: Start of the hash of their hyper-parameters, where the store holds several kinds.
        groups: Groups to score; None takes all groups of the grouping that have samples.
        cache: Folder for squared errors, one file a model: an interrupted scoring goes on there, and the
            full model's errors serve every method. None keeps nothing.
        device: Where to compute.
        on_batch: Told the number of evaluations after every batch.
    """

    _hashes: dict[str, str]
    _hparams_hash: str

    def __init__(
        self,
        store: str | Path,
        scoring: Scoring = Scoring(),  # noqa: B008  (frozen)
        *,
        seed: int = 0,
        hparams: str | None = None,
        groups: Sequence[str] | None = None,
        cache: Path | None = None,
        device: torch.device | str = "cpu",
        on_batch: Callable[[int], None] = lambda evaluations: None,
    ) -> None:
        self.store = CounterfactualStore(store)
        self.scoring, self.seed, self.hparams = scoring, seed, hparams
        self.groups, self.cache, self.device, self.on_batch = groups, cache, device, on_batch
        self.ranks = ALONE

    def score(self, queries: Queries) -> ScoreTable:
        """Score every query under the full model and every counterfactual, on the same noise.

        Raises:
            QueryError: There are no queries.
        """
        refuse_no_queries(queries)
        errors = self._all_errors(queries)
        return score_table(
            errors[None],
            {group: errors[group] for group in self.fitted_groups},
            self._full.model.schedule,
            self.scoring,
            method=self.method,
            seed=self.seed,
            record=self.record(queries),
        )

    def record(self, queries: Queries) -> dict[str, object]:
        """What identifies the scores of these queries: models, data, noise and timesteps.

        Where the attributor was fitted to a grouping, also the number of samples in each scored group.
        """
        grouping = self._grouping
        sizes = (
            {}
            if grouping is None
            else {name: len(grouping.forget(grouping.coalition(name))) for name in self.fitted_groups}
        )
        return {
            **self._expect,
            **({"group_sizes": sizes} if sizes else {}),
            **self.scoring.record(self._full.model.schedule),
            "weightings": list(get_args(Weighting)),  # a table that lacks one is made again, from kept errors
            "counterfactuals": self._hashes,
            "hparams_hash": self._hparams_hash,
            **_identity(queries),
        }

    def bytes_per_query(self) -> int:
        """See ``Attributor.bytes_per_query``: squared errors and their timesteps, of every model."""
        models = 1 + len(self.fitted_groups)
        evaluations = self.scoring.plan(self._full.model.schedule).evaluations
        return super().bytes_per_query() + _ERROR_BYTES * models * evaluations

    def work_on(self, device: torch.device, on_batch: Callable[[int], None]) -> None:
        """See ``Attributor.work_on``; before ``fit``."""
        self.device, self.on_batch = device, on_batch

    def share_with(self, ranks: Ranks) -> None:
        """See ``Attributor.share_with``; before ``score``."""
        self.ranks = ranks

    @abstractmethod
    def measure(self, queries: Queries, scoring: Scoring, wanted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Squared errors of the full model and of some counterfactuals on the same noise; nothing is kept.

        Args:
            queries: ``Q`` queries.
            scoring: How to score them.
            wanted: ``[Q, groups]`` bool, which scores are asked for.

        Returns:
            ``[Q, strata, draws]`` of the full model, ``[groups, Q, strata, draws]`` with NaN where it is not
            wanted, and the timesteps ``[Q, strata, draws]``.
        """

    @abstractmethod
    def evaluations_of(self, per_model: int) -> int:
        """Network evaluations of all groups together, from those of one model."""

    @abstractmethod
    def _all_errors(self, queries: Queries) -> dict[str | None, SquaredErrors]:
        """Squared errors of the full model (None) and of each group's counterfactual."""

    def _take(self, full: FullModel, grouping: Grouping | None) -> None:
        """Note the full model and its groups, which every counterfactual must have been made from.

        Raises:
            GroupError: A group does not exist.
        """
        self._full, self._grouping = full, grouping
        self._expect = {"full_hash": full.hash, "schedule_hash": full.model.schedule.hash}
        if grouping is not None:
            self._expect["grouping_hash"] = grouping.hash
            for group in self._asked_groups(()):
                grouping.coalition(group)

    def _asked_groups(self, known: Sequence[str]) -> tuple[str, ...]:
        """The groups to score: those asked for, those of the grouping that have samples, or all known."""
        if self.groups is not None:
            return tuple(self.groups)
        grouping = self._grouping
        return tuple(known if grouping is None else (n for n in grouping.names if grouping.size(n)))

    def _identities(self, queries: Queries) -> dict[str | None, dict[str, object]]:
        """What identifies the squared errors of the full model (None) and of each group's counterfactual."""
        record = {**self.scoring.record(self._full.model.schedule), **_identity(queries)}
        models: list[tuple[str | None, str]] = [(None, self._full.hash), *self._hashes.items()]
        return {group: error_identity(record, model) for group, model in models}

    def _cached(self, identity: dict[str, object]) -> SquaredErrors | None:
        """Squared errors of this identity, if they were kept."""
        path = self._path(identity)
        if path is None or not self.ranks.broadcast(path.is_file()):
            return None
        return SquaredErrors.load(path, expect=identity)

    def _keep(self, errors: SquaredErrors) -> None:
        """Keep squared errors under the identity that is their record."""
        path = self._path(errors.record)
        if path is not None:
            self.ranks.on_rank_zero(partial(errors.save, path))

    def _network(self) -> DiffusionModel:
        """A copy of the full model on the device, whose weights may be replaced."""
        network: Any = copy.deepcopy(self._full.model.denoiser)
        if self.ranks.mesh is None:  # convolutions are faster so (docs/benchmarks.md); FSDP2 refuses it
            network.to(memory_format=torch.channels_last)
        else:
            shard(network, self.ranks.mesh)
        return replace(self._full.model, denoiser=network.to(self.device))

    def _missing(self, queries: Queries) -> int:
        """Number of models whose squared errors were not kept."""
        paths = [self._path(identity) for identity in self._identities(queries).values()]
        return sum(path is None or not path.is_file() for path in paths)

    def _path(self, identity: dict[str, object]) -> Path | None:
        return None if self.cache is None else error_path(self.cache, identity)


def _identity(queries: Queries) -> dict[str, str]:
    """What identifies queries as a model takes them."""
    encoders = {} if queries.encoders is None else {"encoders": queries.encoders}
    return {"query_hash": query_hash(queries), **encoders}
