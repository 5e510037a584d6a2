"""What each group is worth among the others: Shapley and Banzhaf values, and interactions of pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, compress
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from guda_lightning.attribution.attributor import Attributor, refuse_no_queries
from guda_lightning.attribution.operators import elbo_attributor
from guda_lightning.counterfactuals import GUIDANCE
from guda_lightning.data.grouping import Grouping
from guda_lightning.diffusion import FullModel
from guda_lightning.distributed.ranks import Ranks
from guda_lightning.errors import ConfigError
from guda_lightning.functional.coalition_plans import (
    CoalitionPlan,
    all_coalitions,
    kernel,
    permutations,
    uniform,
)
from guda_lightning.functional.coalitions import (
    Estimate,
    banzhaf,
    banzhaf_interactions,
    shapley_interactions,
    shapley_kernel,
    shapley_permutation,
)
from guda_lightning.scores import ScoreTable
from guda_lightning.scores.scoring import Scoring
from guda_lightning.storage.files import sha256_json
from guda_lightning.types import JOINT, Queries

Worth = Literal["shapley", "shapley_permutation", "banzhaf", "shapley_interactions", "banzhaf_interactions"]

_PLANS: Mapping[Worth, Callable[[int, int, int], CoalitionPlan]] = {
    "shapley": kernel,
    "shapley_permutation": permutations,
    "banzhaf": uniform,
    "shapley_interactions": kernel,
    "banzhaf_interactions": uniform,
}
_ESTIMATORS: Mapping[Worth, Callable[[CoalitionPlan, Tensor], Estimate]] = {
    "shapley": shapley_kernel,
    "shapley_permutation": shapley_permutation,
    "banzhaf": banzhaf,
    "shapley_interactions": shapley_interactions,
    "banzhaf_interactions": banzhaf_interactions,
}
_EXACT = 8  # players: their 256 coalitions cost less than a sample that says as much


class CoalitionAttributor(Attributor):
    """Values of groups from the scores of many coalitions of them, removed together.

    Shapley values sum to the score of removing all players; Banzhaf values do not. An interaction of two
    groups is positive where removing both costs a query more than the sum of what removing each one costs:
    they stand in for each other.

    Args:
        store: Folder of the store, RUN/store.
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

    def __init__(
        self,
        store: str | Path,
        worth: Worth = "shapley",
        operator: str = GUIDANCE,
        count: int = 200,
        reference: str | None = None,
        scoring: Scoring = Scoring(strata=25, draws=1),  # noqa: B008  (frozen)
        seed: int = 0,
    ) -> None:
        if worth not in get_args(Worth):
            raise ConfigError(
                "the kind of value is unknown",
                found=worth,
                expected=", ".join(get_args(Worth)),
                fix="set attributor.init_args.worth to one of them",
            )
        self.worth, self.count, self.reference, self.seed = worth, count, reference, seed
        self.method = worth if operator == GUIDANCE else f"{worth}_{operator}"
        self.inner = elbo_attributor(store, operator, scoring=scoring, seed=seed)

    def fit(self, full: FullModel, data: Any, grouping: Grouping | None) -> CoalitionAttributor:
        """Choose the players, draw their coalitions and find the counterfactual of each.

        Args:
            full: The full model.
            data: Not looked at.
            grouping: Today's groups.

        Raises:
            ConfigError: No samples would stay, or there are fewer than two players.
            StoreError: A counterfactual is missing or made from something else.
        """
        if grouping is None:
            raise ConfigError(
                "values of groups need to know the groups",
                found="no grouping",
                expected="the grouping of the training data",
                fix="pass datamodule.grouping to fit",
            )
        self.players = _players(grouping, self.reference)
        self._sizes = {name: grouping.size(name) for name in self.players}
        number = len(self.players)
        plan = (
            _PLANS[self.worth](number, self.count, self.seed) if number > _EXACT else all_coalitions(number)
        )
        self._plan = plan
        self.inner.groups = [self._name(row.tolist()) for row in plan.coalitions[1:]]
        self.inner.fit(full, data, grouping)
        self._evaluations_per_query = self.inner.scoring.plan(full.model.schedule).evaluations
        self.fitted_groups = (
            tuple(map("*".join, combinations(self.players, 2))) if self._pairs else self.players
        )
        return self

    def score(self, queries: Queries) -> ScoreTable:
        """Value of every group, or interaction of every pair, for every query and weighting."""
        refuse_no_queries(queries)
        scored = self.inner.score(queries)
        tables = []
        for weighting in scored.weightings:
            removed = scored.select(weighting=weighting).matrix().T  # in the order of the plan's coalitions
            values = torch.cat([removed.new_zeros(1, len(queries)), removed])
            estimate = _ESTIMATORS[self.worth](self._plan, values)
            tables.append(
                ScoreTable.from_matrix(
                    self._columns(estimate.values),
                    self._columns(estimate.stderr),
                    query_ids=queries.ids,
                    groups=self.fitted_groups,
                    n_draws=self._evaluations_per_query,
                    method=self.method,
                    weighting=weighting,
                    seed=self.seed,
                    record=self.record(queries),
                )
            )
        return ScoreTable.concat(tables)

    def record(self, queries: Queries) -> dict[str, object]:
        """What identifies the values of these queries: all that made the scores of coalitions, and which.

        The standard error is that of the draw of coalitions; the noise of the scores is not in it.
        """
        scored = self.inner.record(queries)
        models = sha256_json(scored.pop("counterfactuals"))
        scored.pop("group_sizes")  # of coalitions
        kind = {"all_coalitions": "exact", "permutations": "between pairs of permutations"}
        return {
            **scored,
            **({} if self._pairs else {"group_sizes": self._sizes}),
            "coalitions": models,
            "worth": self.worth,
            "draws": self.count,
            "reference": self.reference,
            "stderr": kind.get(self._plan.kind, "jackknife over pairs of coalitions"),
        }

    def evaluations(self, queries: Queries) -> int:
        """Network evaluations that the scores of all coalitions still need."""
        return self.inner.evaluations(queries)

    def bytes_per_query(self) -> int:
        """See ``Attributor.bytes_per_query``."""
        return self.inner.bytes_per_query()

    def work_on(self, device: torch.device, on_batch: Callable[[int], None]) -> None:
        """See ``Attributor.work_on``."""
        self.inner.work_on(device, on_batch)

    def share_with(self, ranks: Ranks) -> None:
        """See ``Attributor.share_with``."""
        self.inner.share_with(ranks)

    @property
    def _pairs(self) -> bool:
        return self.worth.endswith("_interactions")

    def _name(self, member: Sequence[bool]) -> str:
        return JOINT.join(sorted(compress(self.players, member)))

    def _columns(self, values: Tensor) -> Tensor:
        """``[queries, groups]``, or the pairs above the diagonal of ``[queries, groups, groups]``."""
        if not self._pairs:
            return values
        rows, columns = torch.triu_indices(len(self.players), len(self.players), offset=1)
        return values[:, rows, columns]


def _players(grouping: Grouping, reference: str | None) -> tuple[str, ...]:
    """All groups that have samples, without the one that stays.

    Raises:
        ConfigError: No samples would stay, or there are fewer than two.
        GroupError: There is no such group.
    """
    if reference is not None:
        grouping.check([reference])
    players = tuple(name for name in grouping.names if name != reference and grouping.size(name))
    covered = grouping.membership()[:, [grouping.names.index(name) for name in players]].any(axis=1)
    if len(players) < 2 or covered.all():
        raise ConfigError(
            "the players of a coalition game cannot be all the data"
            if covered.all()
            else "a coalition game needs two players",
            found=f"{len(players)} groups over {int(covered.sum())} of {grouping.num_samples} samples",
            expected="two groups or more, and samples that always stay",
            fix=f"set attributor.init_args.reference to a group that stays, such as {grouping.names[0]!r}",
        )
    return players
