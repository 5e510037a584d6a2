"""What each player is worth, from scores of coalitions: Shapley and Banzhaf values and pairwise interactions.

A coalition S is a set of players (groups of training data) that are removed together, v(S) is what a query's
score then is. Nothing is assumed of v; results are relative to v(∅), which is 0 for scores::

    plan = kernel(players, count, seed)
    values = ...  # [coalitions, queries]: v of every row of plan.coalitions
    worth, stderr, stderr_kind = shapley_kernel(plan, values)

====================  ========================  ====================================
plan                  for                       draws (× coalitions in each)
====================  ========================  ====================================
``permutations``      ``shapley_permutation``   2 or more (× 2 players)
``kernel``            ``shapley_kernel``        3 players or more (× 2)
..                    ``shapley_interactions``  2 players² or more (× 2)
``uniform``           ``banzhaf``               3 players or more (× 2)
..                    ``banzhaf_interactions``  players² or more (× 2)
``all_coalitions``    all of these, exactly     ``2 ** players`` coalitions
====================  ========================  ====================================

Every estimator takes a plan (``coalition_plans``) and its values ``[coalitions, queries]`` and returns an
``Estimate``. It raises ConfigError where the plan is of another kind or too small or the values do not fit
it, and NumericsError where a value is not finite.

Notation: N all players, n their number, s that of S, u_i = 1 where i is in S and −1 elsewhere.
"""

from __future__ import annotations

from math import comb
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from guda_lightning.errors import ConfigError, NumericsError
from guda_lightning.functional.coalition_plans import CoalitionPlan, PlanKind

StderrKind = Literal["exact", "between pairs of permutations", "jackknife over pairs of coalitions"]


class Estimate(NamedTuple):
    """What an estimator returns, all float64.

    Attributes:
        values: ``[queries, players]``, or ``[queries, players, players]`` (symmetric, zero diagonal).
        stderr: Their standard errors over the draw of the plan; zeros when ``exact``.
        stderr_kind: Where they come from; the jackknife's is the HC3 of MacKinnon & White (1985), which does
            not need the fitted game to be the true one.
    """

    values: Tensor
    stderr: Tensor
    stderr_kind: StderrKind


def shapley_permutation(plan: CoalitionPlan, values: Tensor) -> Estimate:
    """Shapley values as mean marginal contributions along permutations (Shapley 1953; Castro et al. 2009).

    Unbiased for any number of draws; sums to ``v(N) − v(∅)``; a player that never matters gets exactly 0.
    """
    values = _checked(plan, values, "permutations", "all_coalitions")
    if plan.kind == "all_coalitions":
        return shapley_kernel(plan, values)
    walks = plan.draws.view(len(plan.draws), 2, plan.players + 1)
    mean = values.new_empty(values.shape[1], plan.players)
    stderr = torch.empty_like(mean)
    for player, member in enumerate(plan.coalitions.unbind(1)):  # all at once would fill the memory
        joins = (~member[walks]).sum(dim=2, keepdim=True)
        after, before = (walks.gather(2, step).squeeze(2).to(values.device) for step in (joins, joins - 1))
        marginal = (values[after] - values[before]).mean(dim=1)
        mean[:, player] = marginal.mean(dim=0)
        stderr[:, player] = marginal.std(dim=0) / len(marginal) ** 0.5
    return Estimate(mean, stderr, "between pairs of permutations")


def shapley_kernel(plan: CoalitionPlan, values: Tensor) -> Estimate:
    """Shapley values as the best additive game under the Shapley kernel (Lundberg & Lee 2017, theorem 2).

    With complements it is the least squares of ``v(S) − v(N∖S)`` on u. Their sum ``v(N) − v(∅)`` is enforced,
    not fitted. The design is that of the draws, not the expected one: a bias that vanishes faster than the
    error buys a far smaller variance (Covert & Lee 2021).
    """
    values = _checked(plan, values, "kernel", "all_coalitions")
    u, odd, _ = _pairs(plan, values)
    share = (values[-1] - values[0]) / plan.players
    design = u - u.mean(dim=1, keepdim=True)  # what is left to fit sums to 0 over the players
    instruments = _kernel_weights(plan, u) * design
    fitted = _regress(plan, design, odd - u.sum(dim=1, keepdim=True) * share, instruments, plan.players - 1)
    return fitted._replace(values=fitted.values + share[:, None])


def banzhaf(plan: CoalitionPlan, values: Tensor) -> Estimate:
    """Banzhaf values: mean marginal contributions to uniform coalitions of the others (Banzhaf 1965).

    The best additive game under uniform coalitions (Hammer & Holzman 1992), by least squares. Maximum sample
    reuse (Wang & Jia 2023), which with complements is the mean of ``u_i (v(S) − v(N∖S))``, also uses every
    coalition for every player, but the other players' values are noise to it; here only what no additive
    game explains is. Evaluating S with and without each player costs n + 1 coalitions instead of 2. At 440
    coalitions of 10 players, their errors are 16 and 5 times as large for v that saturate, 1 and 2.4 times
    for v at random.
    """
    values = _checked(plan, values, "uniform", "all_coalitions")
    u, odd, _ = _pairs(plan, values)
    return _regress(plan, u, odd, u, plan.players)


def shapley_interactions(plan: CoalitionPlan, values: Tensor) -> Estimate:
    """Shapley interaction index (Grabisch & Roubens 1999): positive where two players add more together.

    The mean of ``v(S∪{i,j}) − v(S∪{i}) − v(S∪{j}) + v(S)`` over S without i and j, every size alike. Its
    weight of each v(S) is the instrument of a regression on pairwise games: the instruments make the result
    consistent for any game, the regressors make it exact for pairwise ones.
    """
    values = _checked(plan, values, "kernel", "all_coalitions")
    u, _, even = _pairs(plan, values)
    n, i, j = plan.players, *torch.triu_indices(plan.players, plan.players, 1, device=u.device)
    s = (u > 0).sum(dim=1, keepdim=True).to(u)
    both, neither = (n - s) / (s - 1).clamp(min=1), s / (n - s - 1).clamp(min=1)
    alike = torch.where(u[:, i] > 0, both, neither)
    weight = torch.where(u[:, i] == u[:, j], alike, -1.0)  # of v(S) in the index, relative to the kernel
    target = even - (values[0] + values[-1]) / 2
    instruments = _kernel_weights(plan, u) * weight
    return _symmetric(n, _regress(plan, (u[:, i] * u[:, j] - 1) / 4, target, instruments, len(i)))


def banzhaf_interactions(plan: CoalitionPlan, values: Tensor) -> Estimate:
    """Banzhaf interaction index (Grabisch & Roubens 1999): as Shapley's, with all S without i and j alike.

    The pairs' part of the best game of pairwise interactions under uniform coalitions, by least squares.
    """
    values = _checked(plan, values, "uniform", "all_coalitions")
    u, _, even = _pairs(plan, values)
    i, j = torch.triu_indices(plan.players, plan.players, 1, device=u.device)
    design = torch.cat([u[:, i] * u[:, j] / 4, torch.ones_like(u[:, :1])], dim=1)
    fitted = _regress(plan, design, even, design, design.shape[1])
    return _symmetric(plan.players, fitted)


def _pairs(plan: CoalitionPlan, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``[draws, players]`` u; ``[draws, queries]`` v(S) − v(N∖S), and the mean of v(S) and v(N∖S)."""
    first, second = plan.draws.to(values.device).unbind(1)
    u = 2 * plan.coalitions.to(values)[first] - 1
    return u, values[first] - values[second], (values[first] + values[second]) / 2


def _kernel_weights(plan: CoalitionPlan, u: Tensor) -> Tensor:
    """Shapley kernel of every draw ``[draws, 1]``: ones where the draws come from it; 0 for ∅ and N."""
    if plan.kind == "kernel":
        return torch.ones_like(u[:, :1])
    n = plan.players
    of_size = [0.0, *(1 / (comb(n, s) * s * (n - s)) for s in range(1, n)), 0.0]
    return u.new_tensor(of_size)[(u > 0).sum(dim=1, keepdim=True)]


def _regress(plan: CoalitionPlan, design: Tensor, target: Tensor, instruments: Tensor, rank: int) -> Estimate:
    """``(ZᵀX)⁻¹ Zᵀy`` over the draws, least squares where Z is X, with the jackknife's correction and error.

    Args:
        plan: The plan of the draws.
        design: ``[draws, terms]`` X.
        target: ``[draws, queries]`` y.
        instruments: ``[draws, terms]`` Z.
        rank: How many terms the draws have to tell apart.
    """
    gram, draws, exact = instruments.T @ design, len(design), plan.kind == "all_coalitions"
    influence = instruments @ torch.linalg.pinv(gram, rtol=1e-10).T
    spare = 1 - (influence * design).sum(dim=1, keepdim=True)  # 1 − leverage: what others say about a draw
    if torch.linalg.matrix_rank(gram, rtol=1e-10) < rank or (spare.min() < 1e-6 and not exact):
        raise ConfigError(
            "there are too few draws to fit the regression",
            found=f"{draws} draws, {len(plan.coalitions)} coalitions of {plan.players} players",
            expected=f"so many that any {draws - 1} of them determine all {rank} coefficients",
            fix=f"evaluate {plan.kind}({plan.players}, {max(2 * draws, 4 * rank)}, seed)",
        )
    coefficients = influence.T @ target
    if exact:
        return Estimate(coefficients.T, torch.zeros_like(coefficients.T), "exact")
    # Without draw i the coefficients are smaller by influence_i · deviation_i.
    deviation = (target - design @ coefficients) / spare
    coefficients = coefficients + (draws - 1) / draws * influence.T @ deviation
    stderr = (influence.square().T @ deviation.square()).sqrt()
    return Estimate(coefficients.T, stderr.T, "jackknife over pairs of coalitions")


def _symmetric(players: int, pairs: Estimate) -> Estimate:
    i, j = torch.triu_indices(players, players, 1, device=pairs.values.device)

    def square(of_pairs: Tensor) -> Tensor:
        matrix = of_pairs.new_zeros(len(of_pairs), players, players)
        matrix[:, i, j] = matrix[:, j, i] = of_pairs[:, : len(i)]
        return matrix

    return Estimate(square(pairs.values), square(pairs.stderr), pairs.stderr_kind)


def _checked(plan: CoalitionPlan, values: Tensor, *kinds: PlanKind) -> Tensor:
    if plan.kind not in kinds:
        raise ConfigError(
            "the estimator does not fit the coalition plan",
            found=f"a plan made by {plan.kind}",
            expected=f"a plan made by {' or '.join(kinds)}",
            fix=f"evaluate the coalitions of {kinds[0]}({plan.players}, count, seed)",
        )
    if values.dim() != 2 or len(values) != len(plan.coalitions):
        raise ConfigError(
            "the values do not fit the coalition plan",
            found=f"values of shape {tuple(values.shape)}",
            expected=f"({len(plan.coalitions)}, queries): one row per coalition of the plan",
            fix="evaluate plan.coalitions, in their order",
        )
    if not values.isfinite().all():
        row, query = (~values.isfinite()).nonzero()[0].tolist()
        raise NumericsError(
            "the value of a coalition is not finite",
            found=f"{values[row, query].item()} at coalition {row}, query {query}",
            expected="finite numbers",
            fix="score that query again",
        )
    return values.double()
