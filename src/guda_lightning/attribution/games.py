"""Games of coalitions: who plays, which coalitions are tried, and what they say each player is worth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import compress
from typing import Literal

from torch import Tensor

from guda_lightning.data.grouping import Grouping
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


def plan_of(worth: Worth, players: int, count: int, seed: int) -> CoalitionPlan:
    """The coalitions to try: all of them of up to 8 players, else a draw."""
    return _PLANS[worth](players, count, seed) if players > _EXACT else all_coalitions(players)


def worth_of(worth: Worth, plan: CoalitionPlan, values: Tensor) -> Estimate:
    """What values ``[coalitions, queries]`` of a plan's coalitions say each player, or pair, is worth."""
    return _ESTIMATORS[worth](plan, values)


def names_of(grouping: Grouping, players: Sequence[str], plan: CoalitionPlan) -> list[str]:
    """What the coalitions of a plan are called, without the empty one, which is the first.

    Raises:
        GroupError: Two are called the same.
    """
    return [grouping.known.joint(list(compress(players, row.tolist()))) for row in plan.coalitions[1:]]


def players_of(grouping: Grouping, reference: str | None, option: str) -> tuple[str, ...]:
    """All groups that have samples, without the one that stays.

    Args:
        grouping: The groups.
        reference: The group that stays; may be left out where some samples are in none.
        option: What sets it, for an error.

    Raises:
        ConfigError: No samples would stay, or there are fewer than two.
        GroupError: There is no such group.
    """
    if reference is not None:
        reference = grouping.known.find(reference) or reference
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
            fix=f"set {option} to a group that stays, such as {grouping.names[0]!r}",
        )
    return players
