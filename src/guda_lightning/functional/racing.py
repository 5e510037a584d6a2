"""Scores that stop early: rounds of evaluations are spent only where a query's top-k set is open.

A *round* gives every query one paired score estimate per group, on noise that its groups share. Steps:

1. ``boundary`` says how large the t-statistic of a difference must be after n rounds;
2. ``evaluate`` (the caller's) makes one more round, for the groups still open;
3. ``Moments`` keeps means and scatter of the scores, and of the differences of every two groups, in which
   the shared noise cancels;
4. ``decide`` says which groups are now certainly in or certainly out of the top k: they cost nothing more;
5. ``race`` repeats this until nothing is open or the budget is spent.

What is guaranteed, for each query of N groups: let S be its true top-k set (any of them, where groups tie for
the last place), and let rounds be independent, identically distributed and normal. Then the probability that
a group of S is ever decided out, or another one in, is at most δ/2, so that where S is not unique all groups
are decided with probability at most δ. This holds for looks after every round from ``rounds_min`` to
the ``rounds_max`` planned at the start, and for what is decided only in part.

Why: a wrong decision needs a wrong statement "j is above i" with i in S and j not (see ``decide``). There are
k (N − k) such pairs, and each two-sided t-interval errs with δ / (k (N − k) · looks): exactly, for normal
rounds of unknown variances and correlations. The rest is the union bound over pairs and looks.

How far rounds may be from normal, and why Student's t: docs/decisions.md, "Scores that stop early".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from guda_lightning.errors import ConfigError, NumericsError, check_range
from guda_lightning.functional.moments import Moments
from guda_lightning.functional.student import t_quantile


@dataclass(frozen=True)
class Decisions:
    """What is certain about the top k of each query.

    Attributes:
        inside: ``[queries, groups]`` bool, certainly in the top k.
        outside: ``[queries, groups]`` bool, certainly not.
    """

    inside: Tensor
    outside: Tensor

    @classmethod
    def none(cls, queries: int, groups: int) -> Decisions:
        """Nothing is certain yet."""
        no = torch.zeros(queries, groups, dtype=torch.bool)
        return cls(no, no)

    @property
    def undecided(self) -> Tensor:
        """``[queries, groups]`` bool: the groups to go on with."""
        return ~(self.inside | self.outside)

    @property
    def done(self) -> Tensor:
        """``[queries]`` bool: the top k is known."""
        return ~self.undecided.any(dim=1)


@dataclass(frozen=True)
class Race:
    """What a race found out and what it cost.

    Attributes:
        scores: ``[queries, groups]`` float64, means over the rounds that each group got. Groups that stopped
            at different rounds do not share all their noise, and a group tends to stop while it looks
            extreme: these means tell the top k, not how far apart the decided groups are.
        stderr: ``[queries, groups]`` standard errors of these means, as if the number of rounds had been
            fixed before.
        rounds: ``[queries, groups]`` int64 rounds that each group got.
        evaluations: ``[queries]`` int64: one for the full model in each round of a query, and one for each of
            its groups in that round.
        decisions: What is certain.
        ranking: ``[queries, groups]`` int64, group indices: those certainly in, the undecided, those
            certainly out, each by falling score. The first k are the best guess at the top k.
    """

    scores: Tensor
    stderr: Tensor
    rounds: Tensor
    evaluations: Tensor
    decisions: Decisions
    ranking: Tensor


def boundary(groups: int, *, k: int, delta: float, rounds_min: int, rounds_max: int) -> Tensor:
    """How large ``|mean| / stderr`` of a difference must be to count, by number of rounds.

    Args:
        groups: Groups of a query, N.
        k: Size of the top set.
        delta: Allowed error δ of a query.
        rounds_min: Rounds before the first decision, at least 2.
        rounds_max: Rounds at most; the error is shared out evenly over the looks up to here.

    Returns:
        ``[rounds_max + 1]`` float64, infinite before ``rounds_min``.

    Raises:
        ConfigError: An argument is out of range.
    """
    _check_race(groups, k, delta, rounds_min, rounds_max)
    tail = delta / (k * (groups - k)) / (rounds_max - rounds_min + 1)
    thresholds = torch.full((rounds_max + 1,), torch.inf, dtype=torch.float64)
    thresholds[rounds_min:] = t_quantile(tail, torch.arange(rounds_min, rounds_max + 1) - 1)
    return thresholds


def decide(differences: Moments, decisions: Decisions, *, k: int, thresholds: Tensor) -> Decisions:
    """What is certain after one more look.

    Among the A groups of a query that are open, for k' free places: a group is in if it is above A − k'
    others, out if k' others are above it. That is repeated while it decides anything, since a decision
    may settle others. If no group outside a true top-k set S is held to be above one inside, a group outside
    is above at most A − k' − 1 others and a group of S below at most k' − 1, so neither is misplaced.

    Two groups that differed by the same amount in every round stay undecided: normal differences vary, so
    this comes from rounding or from equal models, about which a t-statistic says nothing.

    Args:
        differences: ``[queries, groups, groups]`` moments of ``x_i − x_j`` over common rounds.
        decisions: What was certain before; it stays so.
        k: Size of the top set.
        thresholds: ``[rounds + 1]`` from ``boundary``, made before the first look.

    Raises:
        ConfigError: There are more rounds than the boundary was made for.
    """
    most = int(differences.count.max()) if differences.count.numel() else 0
    if most >= len(thresholds):
        raise ConfigError(
            "there are more rounds than were planned",
            found=f"{most} rounds",
            expected=f"at most {len(thresholds) - 1}, among which the allowed error is shared out",
            fix="make the boundary for as many rounds as may be needed, before the first look",
        )
    certain = differences.mean > thresholds[differences.count] * differences.stderr  # NaN: False
    certain &= differences.scatter > 0
    inside, outside = decisions.inside, decisions.outside
    while True:
        undecided = ~(inside | outside)
        above = certain & undecided[:, :, None] & undecided[:, None, :]
        places = (k - inside.sum(dim=1))[:, None]
        rivals = undecided.sum(dim=1)[:, None]
        enter = undecided & (above.sum(dim=2) >= rivals - places)
        leave = undecided & (above.sum(dim=1) >= places)
        if not (enter | leave).any():
            return Decisions(inside, outside)
        inside, outside = inside | enter, outside | leave


def race(
    evaluate: Callable[[int, Tensor], Tensor],
    queries: int,
    groups: int,
    *,
    k: int = 1,
    delta: float = 0.05,
    rounds_min: int = 3,
    rounds_max: int = 20,
) -> Race:
    """Find the top k groups of every query with confidence 1 − δ each, in as few evaluations as that takes.

    Queries do not influence each other; racing them in batches gives the same numbers, and bounds the memory
    of about ``80 · queries · groups²`` bytes.

    Args:
        evaluate: ``(round, active) -> scores``: round from 0, which numbers its noise; active
            ``[queries, groups]`` bool; scores ``[queries, groups]``, read where active only. Rounds must be
            independent of each other, and the groups of a query must share the noise of a round.
        queries: Number of queries.
        groups: Number of groups of each query.
        k: Size of the top set.
        delta: Allowed error δ of each query; see the module for what it means.
        rounds_min: Rounds before the first decision.
        rounds_max: Rounds at most: the budget.

    Raises:
        ConfigError: An argument is out of range, or the scores have another shape.
        NumericsError: The score of an active group is not finite.
    """
    thresholds = boundary(groups, k=k, delta=delta, rounds_min=rounds_min, rounds_max=rounds_max)
    scores, differences = Moments.zeros(queries, groups), Moments.zeros(queries, groups, groups)
    decisions = Decisions.none(queries, groups)
    evaluations = torch.zeros(queries, dtype=torch.int64)
    for number in range(rounds_max):
        active = decisions.undecided
        if not active.any():
            break
        values = _checked(evaluate(number, active), active, number)
        scores = scores.add(values)
        differences = differences.add(values[:, :, None] - values[:, None, :])
        evaluations = evaluations + active.any(dim=1) + active.sum(dim=1)
        decisions = decide(differences, decisions, k=k, thresholds=thresholds)
    return Race(
        scores.mean, scores.stderr, scores.count, evaluations, decisions, _ranking(scores.mean, decisions)
    )


def _checked(values: Tensor, active: Tensor, number: int) -> Tensor:
    """The scores of a round in float64, NaN where groups are not active."""
    if values.shape != active.shape:
        raise ConfigError(
            "the scores of a round have the wrong shape",
            found=f"shape {tuple(values.shape)} in round {number}",
            expected=f"shape {tuple(active.shape)}, queries and groups",
            fix="return one score per query and group, NaN where it is not active",
        )
    values = values.to(active.device, torch.float64)
    bad = active & ~values.isfinite()
    if bad.any():
        query, group = bad.nonzero()[0].tolist()
        raise NumericsError(
            "a score of a round is not finite",
            found=f"{values[query, group].item()} at query {query}, group {group}, round {number}",
            expected="a finite number for every active group",
            fix="look at that query and that group's counterfactual; score in fp32 if bf16 overflows",
        )
    return torch.where(active, values, torch.nan)


def _ranking(means: Tensor, decisions: Decisions) -> Tensor:
    order = means.argsort(dim=1, descending=True, stable=True)
    place = decisions.outside.long() - decisions.inside.long()
    return order.gather(1, place.gather(1, order).argsort(dim=1, stable=True))


def _check_race(groups: int, k: int, delta: float, rounds_min: int, rounds_max: int) -> None:
    fix = f"take a k from 1 to {groups - 1}" if groups > 1 else "score at least two groups"
    check_range("k", k, ge=1, lt=groups, fix=fix, expected=f"1 <= k < {groups}, the number of groups")
    check_range("delta", delta, gt=0, lt=1, fix="take 0.05")
    variance = "rounds_min >= 2, since one round has no variance"
    check_range("rounds_min", rounds_min, ge=2, fix="take 3", expected=variance)
    fix = f"take rounds_max >= {rounds_min}, or fewer rounds_min"
    check_range("rounds_max", rounds_max, ge=rounds_min, fix=fix)
