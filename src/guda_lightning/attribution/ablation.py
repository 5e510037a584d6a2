"""Scores by an ensemble: every group's counterfactual is the mean of the members that never saw it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from guda_lightning.attribution.attributor import AttributionContext, Attributor, refuse_no_queries
from guda_lightning.attribution.elbo import FittedELBOAttributor, scored_groups
from guda_lightning.attribution.scoring import joint_squared_errors, shared_errors
from guda_lightning.counterfactuals import ENSEMBLE, CounterfactualKey, CounterfactualStore
from guda_lightning.counterfactuals.ensemble import EnsemblePlan
from guda_lightning.diffusion import DiffusionModel
from guda_lightning.errors import ConfigError
from guda_lightning.functional.ablation import OF_MEMBERS, gram, gram_of_pairs, jackknife, pair_errors
from guda_lightning.functional.elbo import elbo
from guda_lightning.scores import ScoreRecord, ScoreTable, SquaredErrors
from guda_lightning.scores.ensembles import ensemble_errors, pair_models, unseen_masks
from guda_lightning.scores.kinds import Ensemble
from guda_lightning.scores.scoring import Scoring
from guda_lightning.scores.stored import error_identity
from guda_lightning.storage.files import sha256_json
from guda_lightning.types import Queries, Weighting


@dataclass(frozen=True)
class AblationEnsemble(Attributor):
    """``mean ELBO(as many members at random) − ELBO(the members that never saw the group)``, exact (ABC).

    The ensemble that ``guda ensemble`` trained is attributed, not the full model. Scores are relative: they
    set what a group's removal costs against what the removal of the others costs. Scoring holds all members
    on the device: that many copies of the network. A query costs a pass of each, whatever the number of
    groups.

    Args:
        members: Members of the ensemble; None: the fewest that serve.
        leave_one_out: Whether each member was trained without one group alone.
        scoring: How to score.
        seed: Seed of the ensemble.
        hparams: Start of the hash of the members' hyper-parameters, where the store holds several.
        groups: Groups to score, such as ``3`` or, removed together, ``3+7``; None takes all that have
            samples.
    """

    members: int | None = None
    leave_one_out: bool = False
    scoring: Scoring = Scoring()  # noqa: RUF009  (frozen)
    _: KW_ONLY
    seed: int = 0
    hparams: str | None = None
    groups: Sequence[str] | None = None

    def fit(self, context: AttributionContext) -> FittedEnsemble:
        """Find the members, and which of them never saw each group.

        Args:
            context: The full model, whose store has the members, and the groups.

        Raises:
            ConfigError: There are no groups, no store, or too many or too few groups for so many members.
            StoreError: A member is missing, or was made from something else.
            GroupError: A group does not exist, or too few members saw none of several.
        """
        grouping = context.grouping
        if grouping is None:
            raise ConfigError(
                "an ensemble needs the groups of the training data",
                found="no groups",
                expected="the datamodule of the training data, or its grouping",
                fix="pass AttributionContext(data=datamodule)",
            )
        store, groups = context.open_store(None), scored_groups(context, self.groups)
        every = [name for name in grouping.names if grouping.size(name)]
        plan = EnsemblePlan.of(every, self.members, self.seed, one_each=self.leave_one_out)
        unseen = {group: plan.unseen(grouping.coalition(group)) for group in groups}
        keys = plan.keys(store, self.hparams)
        hashes = [store.check(key, expect=context.provenance).weights_hash for key in keys]
        return FittedEnsemble(
            groups=groups,
            method=ENSEMBLE,
            seed=self.seed,
            context=context,
            scoring=self.scoring,
            details=Ensemble(
                counterfactuals={
                    group: sha256_json([ENSEMBLE, [hashes[member] for member in members]])
                    for group, members in unseen.items()
                },
                hparams_hash=keys[0].hparams_hash,
                weightings=get_args(Weighting),
                members=hashes,
                unseen=unseen,
            ),
            store=store,
            keys=keys,
            plan=plan,
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class FittedEnsemble(FittedELBOAttributor):
    """Scores by the members of a store, all of which are on the device.

    Attributes:
        details: Hashes of the members, and which of them never saw each group.
        store: Where the members lie.
        keys: Of each member.
        plan: Which groups each was trained without.
    """

    details: Ensemble
    store: CounterfactualStore
    keys: Sequence[CounterfactualKey]
    plan: EnsemblePlan

    def made(self) -> tuple[Path, ...]:
        """The folder of each member."""
        return tuple(map(self.store.path, self.keys))

    def score(self, queries: Queries) -> ScoreTable:
        """Score every query under all members, on the same noise.

        Args:
            queries: ``Q`` queries, the same on all ranks.

        Returns:
            ``Q × groups`` rows for each weighting. Standard errors cover the noise draws and, where two
            members or more never saw a group, the members, but not what other groups add.

        Raises:
            QueryError: There are no queries.
        """
        refuse_no_queries(queries)
        of_pairs = self._pairs(queries)
        masks, schedule = unseen_masks(self.details, self.groups), self.context.full.model.schedule
        plan = self.scoring.plan(schedule)

        def of_members(weighting: Weighting) -> Tensor:
            bounds = [elbo(one.errors, one.timesteps, plan, schedule, weighting) for one in of_pairs]
            return jackknife(gram_of_pairs(torch.stack(bounds, dim=-1), len(self.keys)), masks)

        table = self._table(
            ensemble_errors(of_pairs, self.details, self.groups),
            self.record(queries),
            of_members if self._has_members_error else None,
        )
        which = f"{self.plan.zeros} of {len(self.keys)} members"
        return replace(
            table,
            notes=(
                f"{self.method}: these scores attribute the mean of an ensemble, not the full model: {which} "
                "that never saw a group against as many at random. They are relative to the other groups: "
                "their order counts, and no sign",
            ),
        )

    def record(self, queries: Queries) -> ScoreRecord:
        """What identifies the scores of these queries: members, data, noise and timesteps."""
        record = super().record(queries)
        if record.scoring is None or not self._has_members_error:
            return record
        return record.of_kind(self.details, f"{record.scoring.stderr}, and {OF_MEMBERS}")

    def evaluations(self, queries: Queries) -> int:
        """Evaluations of all members that scoring these queries still needs, for all groups together."""
        per_model = len(queries) * self.scoring.plan(self.context.full.model.schedule).evaluations
        return self.evaluations_of(per_model) if self._missing(queries) else 0

    def evaluations_of(self, per_model: int) -> int:
        """Network evaluations of all groups together, from those of one model: one pass a member."""
        return per_model * len(self.keys)

    def bytes_per_query(self) -> int:
        """About how much memory ``score`` needs for every query: errors of pairs, Gram matrix, groups."""
        numbers = 2 * len(pair_models(self.details.members)) + len(self.keys) ** 2
        evaluations = self.scoring.plan(self.context.full.model.schedule).evaluations
        return super().bytes_per_query() + 8 * numbers * evaluations

    def measure(self, queries: Queries, scoring: Scoring, wanted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Squared errors of as many members at random and of those that never saw a group; nothing is kept.

        Args:
            queries: ``Q`` queries.
            scoring: How to score them.
            wanted: ``[Q, groups]`` bool, which scores are needed; what is not would cost nothing.

        Returns:
            ``[Q, strata, draws]`` on average over sets of members, ``[groups, Q, strata, draws]`` with NaN
            where it is not wanted, and the timesteps ``[Q, strata, draws]``.
        """
        values, timesteps = self._measured(queries, scoring)
        of_pairs = [SquaredErrors(queries.ids, one, timesteps, {}) for one in values]
        errors = ensemble_errors(of_pairs, self.details, self.groups)
        groups = torch.stack([errors[group].errors for group in self.groups])
        groups[~wanted.T] = torch.nan
        return errors[None].errors, groups, timesteps

    @property
    def _has_members_error(self) -> bool:
        """Whether members repeat each other, so that their spread says what others would have scored."""
        return min(self.plan.zeros, self.plan.members - self.plan.zeros) > 1

    def _all_errors(self, queries: Queries) -> dict[str | None, SquaredErrors]:
        return ensemble_errors(self._pairs(queries), self.details, self.groups)

    def _identities(self, queries: Queries) -> dict[str | None, dict[str, object]]:
        """What identifies the squared errors of each pair of members."""
        record = self.record(queries)
        return {model: error_identity(record, model) for model in pair_models(self.details.members)}

    def _pairs(self, queries: Queries) -> list[SquaredErrors]:
        """Squared errors of each pair of members, in the order of ``pair_models``."""
        identities = list(self._identities(queries).values())
        kept = [self._cached(identity) for identity in identities]
        if None not in kept:
            return [one for one in kept if one is not None]
        values, timesteps = self._measured(queries, self.scoring)
        found = [
            SquaredErrors(queries.ids, one, timesteps, identity)
            for one, identity in zip(values, identities, strict=True)
        ]
        for one in found:
            self._keep(one)
        return found

    def _measured(self, queries: Queries, scoring: Scoring) -> tuple[Tensor, Tensor]:
        """``[pairs, Q, strata, draws]`` of each pair of members, and the timesteps."""
        execution, models = self.context.execution, list[DiffusionModel]()
        for key in self.keys:
            models.append(self._network())
            weights, _ = self.store.load(key, expect=self.context.provenance)
            self._set_weights(models[-1], weights, self.store.path(key))

        def measure(part: Queries) -> tuple[Tensor, Tensor]:
            return joint_squared_errors(
                models,
                part,
                scoring,
                lambda batch, predicted: pair_errors(
                    gram(torch.stack([batch.noise - one for one in predicted], dim=1))
                ),
                device=execution.device,
                on_batch=execution.on_evaluations,
            )

        return shared_errors(measure, queries, execution.ranks)
