"""What scores by ELBO(full) − ELBO(counterfactual) share, wherever the counterfactuals come from."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from guda_lightning.attribution.attributor import (
    AttributionContext,
    FittedAttributor,
    refuse_no_queries,
    sizes_of,
)
from guda_lightning.data import query_hash
from guda_lightning.diffusion import DiffusionModel
from guda_lightning.diffusion.adapters import set_own_weights, whole_weights
from guda_lightning.distributed.sharding import is_sharded, load_whole, shard
from guda_lightning.errors import QueryError
from guda_lightning.scores import ScoreRecord, ScoreTable, SquaredErrors
from guda_lightning.scores.kinds import Likelihood
from guda_lightning.scores.scoring import Scoring, score_table
from guda_lightning.scores.stored import error_identity, error_path
from guda_lightning.storage.seals import intact
from guda_lightning.types import Queries, Weighting

_ERROR_BYTES = 16  # of a squared error and its timestep


@dataclass(frozen=True, eq=False, kw_only=True)
class FittedELBOAttributor(FittedAttributor):
    """``ELBO(full) − ELBO(counterfactual)`` for every group, from squared errors on the same noise.

    Attributes:
        context: What the counterfactuals belong to.
        scoring: How to score.
        details: What identifies the counterfactuals.
        input_shape: Channels, height and width of what they were made for; None where records do not say.
    """

    context: AttributionContext
    scoring: Scoring
    details: Likelihood
    input_shape: tuple[int, int, int] | None = None

    def score(self, queries: Queries) -> ScoreTable:
        """Score every query under the full model and every counterfactual, on the same noise.

        Args:
            queries: ``Q`` queries, the same on all ranks.

        Returns:
            ``Q × groups`` rows for each weighting.

        Raises:
            QueryError: There are no queries, or the counterfactuals were made for images of another shape.
        """
        refuse_no_queries(queries)
        shape = tuple(queries.inputs.shape[1:])
        if self.input_shape not in (None, shape):
            raise QueryError(
                "the queries have another shape than the counterfactuals were made for",
                found=f"{shape}: channels, height, width",
                expected=self.input_shape,
                fix="resize and convert them, or take a store that was made at their size",
            )
        return self._table(self._all_errors(queries), self.record(queries))

    def record(self, queries: Queries) -> ScoreRecord:
        """What identifies the scores of these queries: models, data, noise and timesteps.

        Where the groups are known, also the number of samples in each that is scored.
        """
        grouping = self.context.grouping
        return ScoreRecord(
            self.details,
            query_hash=query_hash(queries),
            encoders=queries.encoders,
            provenance=self.context.provenance,
            scoring=self.scoring.record(self.context.full.model.schedule),
            group_sizes={} if grouping is None else sizes_of(grouping, self.groups),
        )

    def bytes_per_query(self) -> int:
        """About how much memory ``score`` needs for every query: errors and timesteps of every model."""
        models = 1 + len(self.groups)
        evaluations = self.scoring.plan(self.context.full.model.schedule).evaluations
        return super().bytes_per_query() + _ERROR_BYTES * models * evaluations

    @abstractmethod
    def measure(self, queries: Queries, scoring: Scoring, wanted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Squared errors of the full model and of some counterfactuals on the same noise; nothing is kept.

        Args:
            queries: ``Q`` queries.
            scoring: How to score them.
            wanted: ``[Q, groups]`` bool, which scores are needed.

        Returns:
            ``[Q, strata, draws]`` of the full model, ``[groups, Q, strata, draws]`` with NaN where it is not
            wanted, and the timesteps ``[Q, strata, draws]``.
        """

    def last_quarter(self, group: str) -> float | None:
        """How much of its forgetting a counterfactual did in the last quarter of its steps; None: unknown."""
        return None

    @abstractmethod
    def evaluations_of(self, per_model: int) -> int:
        """Network evaluations of all groups together, from those of one model."""

    @abstractmethod
    def _all_errors(self, queries: Queries) -> dict[str | None, SquaredErrors]:
        """Squared errors of the full model (None) and of each group's counterfactual."""

    def _table(
        self,
        errors: Mapping[str | None, SquaredErrors],
        record: ScoreRecord,
        besides: Callable[[Weighting], Tensor] | None = None,
    ) -> ScoreTable:
        """The scores that squared errors give, as ``score_table``."""
        return score_table(
            errors[None],
            {group: errors[group] for group in self.groups},
            self.context.full.model.schedule,
            self.scoring,
            method=self.method,
            seed=self.seed,
            record=record,
            besides=besides,
        )

    def _identities(self, queries: Queries) -> dict[str | None, dict[str, object]]:
        """What identifies the squared errors of the full model (None) and of each group's counterfactual."""
        record = self.record(queries)
        models: list[tuple[str | None, str]] = [
            (None, self.context.full.hash),
            *self.details.counterfactuals.items(),
        ]
        return {group: error_identity(record, model) for group, model in models}

    def _cached(self, identity: Mapping[str, object]) -> SquaredErrors | None:
        """Squared errors of this identity, if they were kept."""
        path, ranks = self._path(identity), self.context.execution.ranks
        # The first rank looks alone: whoever finds damage removes the file, perhaps that of a faster one.
        if path is None or not ranks.broadcast(ranks.rank == 0 and intact(path, "it is computed again")):
            return None
        return SquaredErrors.load(path, expect=identity)

    def _keep(self, errors: SquaredErrors) -> None:
        """Keep squared errors under the identity that is their record."""
        path = self._path(errors.record)
        if path is not None:
            self.context.execution.ranks.on_rank_zero(partial(errors.save, path))

    def _network(self) -> DiffusionModel:
        """A copy of the full model on the device, whose weights may be replaced."""
        execution, model = self.context.execution, self.context.full.model
        network: Any = copy.deepcopy(model.denoiser)
        if execution.ranks.mesh is None:  # convolutions are faster so (docs/benchmarks.md); FSDP2 refuses it
            network.to(memory_format=torch.channels_last)
        else:
            shard(network, execution.ranks.mesh)
        return replace(model, denoiser=network.to(execution.device))

    def _set_weights(self, model: DiffusionModel, weights: Mapping[str, Tensor], origin: Path) -> None:
        """Give what ``_network`` made the weights, or those of an adapter, that lie at ``origin``."""
        if is_sharded(model.denoiser):  # an adapter would have to be there before the weights are spread
            full = self.context.full.model.denoiser
            load_whole(model.denoiser, whole_weights(full, weights, origin))
        else:
            set_own_weights(model.denoiser, weights, origin)

    def _missing(self, queries: Queries) -> int:
        """Number of models whose squared errors were not kept."""
        paths = [self._path(identity) for identity in self._identities(queries).values()]
        return sum(path is None or not path.is_file() for path in paths)

    def _path(self, identity: Mapping[str, object]) -> Path | None:
        return None if self.context.cache is None else error_path(self.context.cache, identity)


def likelihood(
    counterfactuals: Mapping[str, str], hparams_hash: str, classifier: str | None = None, *, sized: bool
) -> Likelihood:
    """What identifies the counterfactuals of a scoring under all weightings.

    Args:
        counterfactuals: Hash of the counterfactual of each group.
        hparams_hash: Hash of the hyper-parameters that they were made with.
        classifier: Identity of the posterior that all of them follow from, if there is one.
        sized: Whether their scores have the size of retraining by construction.
    """
    return Likelihood(
        counterfactuals=counterfactuals,
        hparams_hash=hparams_hash,
        classifier=classifier,
        sized=sized,
        weightings=get_args(Weighting),
    )


def scored_groups(
    context: AttributionContext, chosen: Sequence[str] | None, known: Sequence[str] = ()
) -> tuple[str, ...]:
    """The groups to score: those chosen, those of the grouping that have samples, or all known.

    Raises:
        GroupError: A group does not exist, or the name of a joint group means others as well.
    """
    grouping = context.grouping
    if grouping is None:
        return tuple(chosen or known)
    groups = chosen or [name for name in grouping.names if grouping.size(name)]
    return tuple(dict.fromkeys(grouping.known.joint(grouping.coalition(group)) for group in groups))
