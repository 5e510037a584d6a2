"""What each group is worth among the others: Shapley and Banzhaf values, and interactions of pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from guda_lightning.attribution.attributor import (
    AttributionContext,
    Attributor,
    FittedAttributor,
    refuse_no_queries,
)
from guda_lightning.attribution.counterfactual import CounterfactualAttributor
from guda_lightning.attribution.elbo import FittedELBOAttributor
from guda_lightning.attribution.games import Worth, names_of, plan_of, players_of, worth_of
from guda_lightning.errors import ConfigError, GroupError
from guda_lightning.functional.coalition_plans import CoalitionPlan
from guda_lightning.posteriors import GUIDANCE
from guda_lightning.scores import ScoreRecord, ScoreTable
from guda_lightning.scores.kinds import Coalitions
from guda_lightning.scores.scoring import Scoring
from guda_lightning.storage.files import sha256_json
from guda_lightning.types import Queries


@dataclass(frozen=True)
class CoalitionAttributor(Attributor):
    """Values of groups from the scores of many coalitions of them, removed together.

    Shapley values sum to the score of removing all players; Banzhaf values do not. An interaction of two
    groups is positive where removing both costs a query more than the sum of what removing each one costs:
    they stand in for each other.

    Args:
        store: Folder of the store; None takes that of the context.
        worth: What is estimated. Interactions have a column for each pair, ``a*b``.
        operator: Whose counterfactuals: ``guidance``, where every coalition is free of training, or an
            objective whose counterfactuals of all coalitions are stored (``guda unlearn --groups a+b``).
        count: Draws of coalitions or of permutations, each mirrored; up to 8 players are computed exactly.
        reference: A group that always stays. May be left out where some samples are in no group.
        scoring: How to score a coalition.
        seed: Seed of the counterfactuals and of the draws.

    Raises:
        ConfigError: The kind of value is unknown.
    """

    store: str | Path | None = None
    worth: Worth = "shapley"
    operator: str = GUIDANCE
    count: int = 200
    reference: str | None = None
    scoring: Scoring = Scoring(strata=25, draws=1)  # noqa: RUF009  (frozen)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.worth not in get_args(Worth):
            raise ConfigError(
                "the kind of value is unknown",
                found=self.worth,
                expected=", ".join(get_args(Worth)),
                fix="set attributor.init_args.worth to one of them",
            )

    @property
    def pairs(self) -> bool:
        """Whether pairs of groups are scored instead of groups."""
        return self.worth.endswith("_interactions")

    def fit(self, context: AttributionContext) -> FittedCoalitions:
        """Choose the players, draw their coalitions and find the counterfactual of each.

        Args:
            context: The full model and its groups.

        Raises:
            ConfigError: There is no grouping, no samples would stay, or there are fewer than two players.
            GroupError: There is no such group, or two coalitions or pairs are called the same.
            StoreError: A counterfactual is missing or made from something else.
        """
        grouping = context.grouping
        if grouping is None:
            raise ConfigError(
                "values of groups need to know the groups",
                found="no grouping",
                expected="the grouping of the training data",
                fix="pass AttributionContext(grouping=datamodule.grouping)",
            )
        players = players_of(grouping, self.reference, "attributor.init_args.reference")
        groups = _pairs(players) if self.pairs else players
        plan = plan_of(self.worth, len(players), self.count, self.seed)
        names = names_of(grouping, players, plan)
        inner = CounterfactualAttributor(
            self.store, self.operator, self.scoring, seed=self.seed, groups=names
        ).fit(replace(context, cache=None))  # errors of so many coalitions are not worth keeping
        return FittedCoalitions(
            groups=groups,
            method=self.worth if self.operator == GUIDANCE else f"{self.worth}_{self.operator}",
            seed=self.seed,
            inner=inner,
            config=self,
            plan=plan,
            sizes={} if self.pairs else {name: grouping.size(name) for name in players},
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class FittedCoalitions(FittedAttributor):
    """Values of groups, or interactions of pairs, by coalitions that were drawn.

    Attributes:
        inner: Scores of the coalitions.
        config: What is estimated.
        plan: The coalitions, ``[1 + coalitions, players]``, the empty one first.
        sizes: Number of samples of each player; empty for pairs.
    """

    inner: FittedELBOAttributor
    config: CoalitionAttributor
    plan: CoalitionPlan
    sizes: Mapping[str, int]

    def score(self, queries: Queries) -> ScoreTable:
        """Value of every group, or interaction of every pair, for every query and weighting.

        Args:
            queries: ``Q`` queries, the same on all ranks.

        Returns:
            ``Q × groups`` (or pairs) rows for each weighting.

        Raises:
            QueryError: There are no queries.
        """
        refuse_no_queries(queries)
        scored, record = self.inner.score(queries), self.record(queries)
        evaluations = self.inner.scoring.plan(self.inner.context.full.model.schedule).evaluations
        tables = []
        for weighting in scored.weightings:
            removed = scored.select(weighting=weighting).matrix().T  # in the order of the plan's coalitions
            values = torch.cat([removed.new_zeros(1, len(queries)), removed])
            estimate = worth_of(self.config.worth, self.plan, values)
            tables.append(
                ScoreTable.from_matrix(
                    self._columns(estimate.values),
                    self._columns(estimate.stderr),
                    query_ids=queries.ids,
                    groups=self.groups,
                    n_draws=evaluations,
                    method=self.method,
                    weighting=weighting,
                    seed=self.seed,
                    record=record,
                )
            )
        return ScoreTable.concat(tables)

    def record(self, queries: Queries) -> ScoreRecord:
        """What identifies the values of these queries: all that made the scores of coalitions, and which.

        The standard error is that of the draw of coalitions; the noise of the scores is not in it.
        """
        made = self.inner.details
        details = Coalitions(
            coalitions=sha256_json(made.counterfactuals),
            hparams_hash=made.hparams_hash,
            classifier=made.classifier,
            sized=made.sized,
            weightings=made.weightings,
            worth=self.config.worth,
            draws=self.config.count,
            reference=self.config.reference,
        )
        stderr = {"all_coalitions": "exact", "permutations": "between pairs of permutations"}
        record = self.inner.record(queries).of_kind(
            details, stderr.get(self.plan.kind, "jackknife over pairs of coalitions")
        )
        return replace(record, group_sizes=self.sizes)

    def made(self) -> tuple[Path, ...]:
        """What scores the groups by itself reads."""
        return self.inner.made()

    def evaluations(self, queries: Queries) -> int:
        """Network evaluations that the scores of all coalitions still need."""
        return self.inner.evaluations(queries)

    def bytes_per_query(self) -> int:
        """About how much memory ``score`` needs for every query: that of the scores of all coalitions."""
        return self.inner.bytes_per_query()

    def _columns(self, values: Tensor) -> Tensor:
        """``[queries, groups]``, or the pairs above the diagonal of ``[queries, groups, groups]``."""
        if not self.config.pairs:
            return values
        rows, columns = torch.triu_indices(values.shape[1], values.shape[1], offset=1)
        return values[:, rows, columns]


def _pairs(players: Sequence[str]) -> tuple[str, ...]:
    """What pairs are called: their names with ``*`` in between.

    Raises:
        GroupError: Two pairs are called the same.
    """
    names = tuple(map("*".join, combinations(players, 2)))
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise GroupError(
            f"two pairs of groups are called '{repeated}'",
            found=" and ".join(name for name in players if "*" in name),
            expected="names that tell pairs apart",
            fix="rename the groups that hold a '*'",
        )
    return names
