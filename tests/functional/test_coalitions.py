from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from guda_lightning.errors import ConfigError, NumericsError
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

Game = Callable[[frozenset[int]], float]
Sampler = Callable[[int, int, int], CoalitionPlan]
Estimator = Callable[[CoalitionPlan, Tensor], Estimate]

SAMPLED: dict[str, tuple[Estimator, Sampler]] = {
    "shapley_permutation": (shapley_permutation, permutations),
    "shapley_kernel": (shapley_kernel, kernel),
    "banzhaf": (banzhaf, uniform),
    "shapley_interactions": (shapley_interactions, kernel),
    "banzhaf_interactions": (banzhaf_interactions, uniform),
}
VALUES = ["shapley_permutation", "shapley_kernel", "banzhaf"]
INTERACTIONS = ["shapley_interactions", "banzhaf_interactions"]
SAMPLERS = [permutations, kernel, uniform]


# The definitions, by loops over permutations and subsets.


def shapley_by_permutations(v: Game, n: int) -> list[float]:
    total = [0.0] * n
    for order in itertools.permutations(range(n)):
        for i, player in enumerate(order):
            total[player] += v(frozenset(order[: i + 1])) - v(frozenset(order[:i]))
    return [t / math.factorial(n) for t in total]


def others(n: int, *left_out: int) -> list[frozenset[int]]:
    rest = [k for k in range(n) if k not in left_out]
    return [frozenset(c) for size in range(len(rest) + 1) for c in itertools.combinations(rest, size)]


def banzhaf_by_subsets(v: Game, n: int) -> list[float]:
    return [math.fsum(v(s | {i}) - v(s) for s in others(n, i)) / 2 ** (n - 1) for i in range(n)]


def interactions_by_subsets(v: Game, n: int, weight: Callable[[int], float]) -> list[list[float]]:
    def of_pair(i: int, j: int) -> float:
        return math.fsum(
            weight(len(s)) * (v(s | {i, j}) - v(s | {i}) - v(s | {j}) + v(s)) for s in others(n, i, j)
        )

    return [[0.0 if i == j else of_pair(i, j) for j in range(n)] for i in range(n)]


DEFINITIONS: dict[str, Callable[[Game, int], list[float] | list[list[float]]]] = {
    "shapley_permutation": shapley_by_permutations,
    "shapley_kernel": shapley_by_permutations,
    "banzhaf": banzhaf_by_subsets,
    "shapley_interactions": lambda v, n: interactions_by_subsets(
        v, n, lambda s: math.factorial(s) * math.factorial(n - s - 2) / math.factorial(n - 1)
    ),
    "banzhaf_interactions": lambda v, n: interactions_by_subsets(v, n, lambda s: 1 / 2 ** (n - 2)),
}


# Games as tables, a row per coalition read as a binary number.


def row_numbers(coalitions: Tensor) -> Tensor:
    return coalitions.long() @ (2 ** torch.arange(coalitions.shape[1]))


def on(plan: CoalitionPlan, table: Tensor) -> Tensor:
    return table[row_numbers(plan.coalitions)]


def members(players: int) -> Tensor:
    return (torch.arange(2**players)[:, None] >> torch.arange(players) & 1).double()


def random_table(players: int, queries: int, seed: int = 0) -> Tensor:
    """Every coalition's value its own, ``[2 ** players, queries]``; not 0 for the empty one."""
    return torch.randn(2**players, queries, generator=torch.Generator().manual_seed(seed)).double()


def polynomial_table(players: int, degree: int, seed: int = 0) -> Tensor:
    """A game without interactions of more than ``degree`` players, ``[2 ** players, 2]``."""
    generator = torch.Generator().manual_seed(seed)
    sets = [c for size in range(degree + 1) for c in itertools.combinations(range(players), size)]
    columns = torch.stack([members(players)[:, list(c)].prod(dim=1) for c in sets], dim=1)
    return columns @ torch.randn(len(sets), 2, generator=generator).double()


def game_of(table: Tensor, query: int) -> Game:
    return lambda s: table[sum(1 << k for k in s), query].item()


@cache
def exact(name: str, players: int, seed: int = 0) -> Tensor:
    plan = all_coalitions(players)
    return SAMPLED[name][0](plan, on(plan, random_table(players, 3, seed))).values


def off_diagonal(values: Tensor) -> Tensor:
    """Each estimated number once, ``[queries, numbers]``."""
    if values.dim() == 2:
        return values
    i, j = torch.triu_indices(values.shape[1], values.shape[1], 1)
    return values[:, i, j]


# Exact: all coalitions.


@pytest.mark.parametrize("players", [2, 3, 4, 6])
@pytest.mark.parametrize("name", SAMPLED)
def test_all_coalitions_give_the_definition(name: str, players: int) -> None:
    table, plan = random_table(players, 2), all_coalitions(players)
    found = SAMPLED[name][0](plan, on(plan, table))
    expected = [DEFINITIONS[name](game_of(table, query), players) for query in range(2)]
    torch.testing.assert_close(found.values, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-10)
    assert found.stderr_kind == "exact"
    assert found.stderr.shape == found.values.shape
    assert not found.stderr.any()


@pytest.mark.parametrize(("left", "right"), [(1, 2), (1, 4), (2, 3)])
def test_the_gloves_game(left: int, right: int) -> None:
    # v = min(left gloves, right gloves); (2, 3) is from the table of Shapley & Shubik (1969)
    plan = all_coalitions(left + right)
    pairs = torch.minimum(plan.coalitions[:, :left].sum(1), plan.coalitions[:, left:].sum(1))
    worth = shapley_kernel(plan, pairs[:, None].double()).values[0]
    if left == 1:
        assert worth[0].item() == pytest.approx(right / (right + 1))
        torch.testing.assert_close(
            worth[1:], torch.full((right,), 1 / (right * (right + 1)), dtype=torch.float64)
        )
    else:
        torch.testing.assert_close(worth, torch.tensor([0.65, 0.65, *[0.7 / 3] * 3], dtype=torch.float64))


@pytest.mark.parametrize("name", SAMPLED)
def test_sixteen_players_are_still_exact(name: str) -> None:
    plan = all_coalitions(16)
    assert plan.coalitions.shape == (2**16, 16)
    size = plan.coalitions.sum(dim=1, keepdim=True).double()
    found = SAMPLED[name][0](plan, size**2)  # each pair adds 2, each player alone 1
    expected = {"s": torch.full((1, 16), 16.0), "i": 2 - 2 * torch.eye(16)[None]}
    torch.testing.assert_close(found.values, expected["s" if name in VALUES else "i"].double())


# Sampled plans.


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("players", [2, 3, 9])
def test_plans_hold_each_coalition_once_between_empty_and_all(sampler: Sampler, players: int) -> None:
    plan = sampler(players, 40, 0)
    assert plan.kind == sampler.__name__
    assert plan.players == players
    assert plan.coalitions.dtype == torch.bool
    assert not plan.coalitions[0].any()
    assert plan.coalitions[-1].all()
    assert len(row_numbers(plan.coalitions).unique()) == len(plan.coalitions) <= 2**players
    used = set(plan.draws.flatten().tolist()) | {0, len(plan.coalitions) - 1}
    assert used == set(range(len(plan.coalitions)))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_plan_is_a_pure_function_of_its_seed(sampler: Sampler) -> None:
    plan, again, other = sampler(7, 20, 3), sampler(7, 20, 3), sampler(7, 20, 4)
    assert torch.equal(plan.coalitions, again.coalitions)
    assert torch.equal(plan.draws, again.draws)
    assert not torch.equal(plan.coalitions[plan.draws], other.coalitions[other.draws])
    longer = sampler(7, 30, 3)  # goes on where the shorter plan ends
    assert torch.equal(plan.coalitions[plan.draws], longer.coalitions[longer.draws][:20])


def test_permutations_come_with_their_reverse() -> None:
    plan = permutations(5, 30, 0)
    walks = plan.coalitions[plan.draws].view(30, 2, 6, 5)
    assert torch.equal(walks.sum(dim=3), torch.arange(6).expand(30, 2, 6))
    steps = walks.int().diff(dim=2)
    assert torch.equal(steps.sum(dim=3), torch.ones(30, 2, 5, dtype=torch.long))
    assert (steps >= 0).all()
    assert torch.equal(steps[:, 0], steps[:, 1].flip(1))


@pytest.mark.parametrize("sampler", [kernel, uniform, lambda n, count, seed: all_coalitions(n)])
def test_coalitions_come_with_their_complement(sampler: Sampler) -> None:
    plan = sampler(5, 30, 0)
    first, second = plan.coalitions[plan.draws].unbind(1)
    assert torch.equal(first, ~second)


def chi_square(counts: Tensor, expected: Tensor) -> float:
    """In standard deviations from its mean, about normal for many cells."""
    freedom = len(counts) - 1
    return float((((counts - expected) ** 2 / expected).sum() - freedom) / (2 * freedom) ** 0.5)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_draws_have_the_stated_distribution(sampler: Sampler) -> None:
    plan, n = sampler(6, 10000, 0), 6
    size = members(n).sum(dim=1)
    binomial = torch.tensor([math.comb(n, int(s)) for s in size]).double()
    if sampler is permutations:  # the third coalition of a walk: all of 2 players alike
        drawn, weight = plan.draws[:, 2:3], (size == 2).double()
    else:
        drawn = plan.draws[:, :1]
        weight = torch.ones(64).double() if sampler is uniform else 1 / (binomial * size * (n - size))
        weight = torch.where((size % n == 0) & (sampler is kernel), 0, weight)
    counts = torch.bincount(row_numbers(plan.coalitions[drawn].flatten(0, 1)), minlength=64).double()
    assert not counts[weight == 0].any()
    possible = weight > 0
    assert abs(chi_square(counts[possible], (10000 * weight / weight.sum())[possible])) < 4


# Sampled estimates against exact ones. Random games are the hardest: every coalition has a value of its own.

COUNTS = {
    "shapley_permutation": 40,
    "shapley_kernel": 60,
    "banzhaf": 60,
    "shapley_interactions": 300,
    "banzhaf_interactions": 300,
}
SEEDS, PLAYERS = 200, 6


@cache
def many_estimates(name: str) -> tuple[Tensor, Tensor]:
    """Estimates and standard errors over many plans, ``[seeds, queries, numbers]``."""
    estimator, sampler = SAMPLED[name]
    table = random_table(PLAYERS, 3)
    plans = (sampler(PLAYERS, COUNTS[name], seed) for seed in range(SEEDS))
    estimates = [estimator(plan, on(plan, table)) for plan in plans]
    values, stderr = (
        torch.stack([off_diagonal(getattr(e, part)) for e in estimates]) for part in ("values", "stderr")
    )
    return values, stderr


@pytest.mark.parametrize("name", SAMPLED)
def test_estimates_are_unbiased(name: str) -> None:
    values, _ = many_estimates(name)
    z = (values.mean(dim=0) - off_diagonal(exact(name, PLAYERS))) / (values.std(dim=0) / SEEDS**0.5)
    assert z.abs().max() < 4
    assert 0.4 < z.square().mean() < 2  # neither all too far nor all too near


@pytest.mark.parametrize("name", SAMPLED)
def test_intervals_cover_what_they_state(name: str) -> None:
    values, stderr = many_estimates(name)
    inside = (values - off_diagonal(exact(name, PLAYERS))).abs() <= 1.96 * stderr
    assert inside.double().mean().item() == pytest.approx(0.95, abs=0.02)
    ratio = stderr.square().mean(dim=0).sqrt() / values.std(dim=0)  # every number's own, not only their mean
    assert 0.85 < ratio.min() < ratio.max() < 1.25


@pytest.mark.parametrize("name", SAMPLED)
def test_four_times_the_draws_halve_the_error(name: str) -> None:
    estimator, sampler = SAMPLED[name]
    table, truth = random_table(PLAYERS, 3), exact(name, PLAYERS)
    errors = []
    for count in (150, 600):
        plans = [sampler(PLAYERS, count, seed) for seed in range(20)]
        errors.append(torch.stack([estimator(p, on(p, table)).values - truth for p in plans]).square().mean())
    assert (errors[0] / errors[1]).sqrt().item() == pytest.approx(2, rel=0.3)


@pytest.mark.parametrize("name", ["shapley_permutation", "shapley_kernel"])
@pytest.mark.parametrize("players", [2, 3, 12])
def test_shapley_values_sum_to_the_value_of_all(name: str, players: int) -> None:
    estimator, sampler = SAMPLED[name]
    table = 100 * random_table(players, 5)
    for plan in (sampler(players, 60, 0), all_coalitions(players)):
        found = estimator(plan, on(plan, table)).values.sum(dim=1)
        torch.testing.assert_close(found, table[-1] - table[0], rtol=0, atol=1e-10)


FEW = {"shapley_permutation": 2, "shapley_kernel": 30, "banzhaf": 30}


@pytest.mark.parametrize("name", VALUES)
def test_values_are_exact_for_pairwise_games(name: str) -> None:
    # weights w_i and w_ij: w_i + ½ Σ_j w_ij, whoever counts; only mirrored draws find it from so few
    estimator, sampler = SAMPLED[name]
    table, n = polynomial_table(8, degree=2), 8
    alone = torch.stack([table[1 << i] for i in range(n)]) - table[0]
    together = [
        [table[(1 << i) | (1 << j)] - table[1 << i] - table[1 << j] + table[0] for j in range(n)]
        for i in range(n)
    ]
    expected = [alone[i] + sum(together[i][j] for j in range(n) if j != i) / 2 for i in range(n)]
    plan = sampler(n, FEW[name], 0)
    found = estimator(plan, on(plan, table))
    torch.testing.assert_close(found.values, torch.stack(expected, dim=1), rtol=0, atol=1e-9)
    torch.testing.assert_close(found.stderr, torch.zeros(2, n).double(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", INTERACTIONS)
def test_interactions_are_exact_for_games_of_triples(name: str) -> None:
    # w_ij + ½ Σ_k w_ijk: half of all coalitions of others hold k, by either way of weighing them
    estimator, sampler = SAMPLED[name]
    table, plan = polynomial_table(6, degree=3), sampler(6, 80, 0)
    found = estimator(plan, on(plan, table))
    expected = [DEFINITIONS[name](game_of(table, query), 6) for query in range(2)]
    torch.testing.assert_close(found.values, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-9)
    torch.testing.assert_close(found.stderr, torch.zeros(2, 6, 6).double(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", SAMPLED)
def test_additive_games_are_their_weights(name: str) -> None:
    estimator, sampler = SAMPLED[name]
    weights = torch.randn(7, 4, generator=torch.Generator().manual_seed(0)).double()
    for plan in (sampler(7, 120, 0), all_coalitions(7)):
        found = estimator(plan, plan.coalitions.double() @ weights + 3).values
        expected = weights.T if name in VALUES else torch.zeros(4, 7, 7).double()
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_a_dummy_gets_exactly_nothing_along_permutations() -> None:
    table = random_table(5, 3)
    table = table[
        row_numbers(torch.cat([members(5)[:, :4], torch.zeros(32, 1)], dim=1))
    ]  # player 4 changes nothing
    plan = permutations(5, 10, 0)
    found = shapley_permutation(plan, on(plan, table))
    assert not found.values[:, 4].any()
    assert not found.stderr[:, 4].any()
    assert found.values[:, :4].abs().min() > 0


@pytest.mark.parametrize("name", SAMPLED)
def test_dummies_and_twins_of_random_games(name: str) -> None:
    # player 4 changes nothing, players 0 and 1 are interchangeable
    table, plan = random_table(5, 3), all_coalitions(5)
    swapped = members(5)[:, [1, 0, 2, 3, 4]]
    table = table + table[row_numbers(swapped)]
    table = table[row_numbers(torch.cat([members(5)[:, :4], torch.zeros(32, 1)], dim=1))]
    found = SAMPLED[name][0](plan, on(plan, table)).values
    torch.testing.assert_close(found[:, 4], torch.zeros_like(found[:, 4]), rtol=0, atol=1e-10)
    if name in VALUES:
        torch.testing.assert_close(found[:, 0], found[:, 1])
    else:
        torch.testing.assert_close(found[:, 0, 2:], found[:, 1, 2:])
    assert found[:, 0].abs().max() > 0.01


def test_banzhaf_is_more_precise_than_maximum_sample_reuse() -> None:
    # Wang & Jia (2023): mean with a player minus mean without, on the same coalitions of the same plans
    table = polynomial_table(6, degree=4)
    truth = torch.tensor(
        [banzhaf_by_subsets(game_of(table, query), 6) for query in range(2)], dtype=torch.float64
    )
    ours, reuse = [], []
    for seed in range(50):
        plan = uniform(6, 60, seed)
        drawn, values = plan.coalitions[plan.draws.flatten()].double(), on(plan, table)[plan.draws.flatten()]
        means = [values.T @ side / side.sum(dim=0) for side in (drawn, 1 - drawn)]
        reuse.append((means[0] - means[1] - truth).square().mean())
        ours.append((banzhaf(plan, on(plan, table)).values - truth).square().mean())
    assert sum(ours) < 0.5 * sum(reuse)


# What holds of every game.

names = st.sampled_from(sorted(SAMPLED))
numbers = st.floats(-100, 100, width=32)


def plan_for(name: str, players: int, seed: int, whole: bool) -> CoalitionPlan:
    return all_coalitions(players) if whole else SAMPLED[name][1](players, 100, seed)


@settings(deadline=None, max_examples=60)  # the machine may be busy
@given(names, st.integers(2, 5), st.integers(0, 2**32), st.booleans(), numbers, numbers)
def test_estimates_are_linear_in_the_game(
    name: str, players: int, seed: int, whole: bool, a: float, b: float
) -> None:
    plan, estimator = plan_for(name, players, seed, whole), SAMPLED[name][0]
    first, second = (on(plan, random_table(players, 2, s)) for s in (1, 2))
    combined = estimator(plan, a * first + b * second)
    expected = a * estimator(plan, first).values + b * estimator(plan, second).values
    torch.testing.assert_close(combined.values, expected, rtol=0, atol=1e-8)
    torch.testing.assert_close(
        estimator(plan, a * first).stderr, abs(a) * estimator(plan, first).stderr, rtol=0, atol=1e-8
    )


@settings(deadline=None, max_examples=60)  # the machine may be busy
@given(names, st.permutations(range(5)), st.integers(0, 2**32), st.booleans())
def test_renamed_players_take_their_values_along(
    name: str, order: Sequence[int], seed: int, whole: bool
) -> None:
    plan, estimator = plan_for(name, 5, seed, whole), SAMPLED[name][0]
    renamed = dataclasses.replace(plan, coalitions=plan.coalitions[:, order])
    values = on(plan, random_table(5, 2))
    for before, after in zip(estimator(plan, values)[:2], estimator(renamed, values)[:2], strict=True):
        expected = before[:, order] if name in VALUES else before[:, order][:, :, order]
        torch.testing.assert_close(after, expected, rtol=0, atol=1e-9)


@settings(deadline=None, max_examples=40)  # the machine may be busy
@given(names, st.integers(2, 5), st.integers(0, 2**32), st.booleans())
def test_results_have_their_shape_and_kind(name: str, players: int, seed: int, whole: bool) -> None:
    plan = plan_for(name, players, seed, whole)
    found = SAMPLED[name][0](plan, on(plan, random_table(players, 4)).float())
    shape = (4, players) if name in VALUES else (4, players, players)
    assert found.values.shape == found.stderr.shape == shape
    assert found.values.dtype == found.stderr.dtype == torch.float64
    assert (found.stderr >= 0).all()
    sampled = (
        "between pairs of permutations"
        if name == "shapley_permutation"
        else "jackknife over pairs of coalitions"
    )
    assert found.stderr_kind == ("exact" if whole else sampled)
    if name in INTERACTIONS:
        for part in found[:2]:
            assert torch.equal(part, part.mT)
            assert not part.diagonal(dim1=1, dim2=2).any()


@pytest.mark.parametrize("name", SAMPLED)
def test_a_query_does_not_see_its_batch(name: str) -> None:
    plan = plan_for(name, 5, 0, whole=False)
    values = on(plan, random_table(5, 6))
    together, alone = SAMPLED[name][0](plan, values), SAMPLED[name][0](plan, values[:, 2:3])
    torch.testing.assert_close(together.values[2:3], alone.values, rtol=0, atol=1e-12)
    torch.testing.assert_close(together.stderr[2:3], alone.stderr, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["shapley_kernel", "banzhaf", *INTERACTIONS])
def test_the_regressions_are_jackknives(name: str) -> None:
    # every draw left out in turn, by other solvers, on single coalitions instead of pairs
    estimator, sampler = SAMPLED[name]
    plan = sampler(4, 40, 1)
    values = on(plan, random_table(4, 2))
    found = estimator(plan, values)
    whole = plain(name, plan, values, list(range(40)))
    without = torch.stack([plain(name, plan, values, [k for k in range(40) if k != i]) for i in range(40)])
    torch.testing.assert_close(off_diagonal(found.values), 40 * whole - 39 * without.mean(dim=0))
    error = (without - whole).square().sum(dim=0).sqrt()
    torch.testing.assert_close(off_diagonal(found.stderr), error)


def plain(name: str, plan: CoalitionPlan, values: Tensor, draws: list[int]) -> Tensor:
    """The regressions without their correction, ``[queries, numbers]``."""
    rows = plan.draws[draws].flatten()
    z, y, n = plan.coalitions[rows].double(), values[rows], plan.players
    pairs = torch.stack([z[:, i] * z[:, j] for i, j in itertools.combinations(range(n), 2)], dim=1)
    one = torch.ones(len(z), 1).double()
    if name == "banzhaf":
        return torch.linalg.lstsq(torch.cat([z, one], dim=1), y).solution[:n].T
    if name == "banzhaf_interactions":
        return torch.linalg.lstsq(torch.cat([pairs, z, one], dim=1), y).solution[: pairs.shape[1]].T
    total = values[-1] - values[0]
    if name == "shapley_kernel":  # the last player gets what the others leave
        free = torch.linalg.lstsq(z[:, :-1] - z[:, -1:], y - values[0] - z[:, -1:] * total).solution
        return torch.cat([free, (total - free.sum(dim=0))[None]]).T
    weights = torch.zeros_like(pairs)  # of v(S) in the index, over the kernel's
    for row, member in enumerate(plan.coalitions[rows].tolist()):
        s = sum(member)
        for column, (i, j) in enumerate(itertools.combinations(range(n), 2)):
            both = member[i] + member[j]
            t = s - both
            index = (-1) ** both * math.factorial(t) * math.factorial(n - t - 2) / math.factorial(n - 1)
            weights[row, column] = index * math.comb(n, s) * s * (n - s)
    # a pairwise game without its Shapley values, which are additive; both sides are 0 for ∅ and N
    ends = torch.stack([z[:, i] + z[:, j] for i, j in itertools.combinations(range(n), 2)], dim=1)
    return torch.linalg.solve(
        weights.T @ (pairs - ends / 2), weights.T @ (y - (values[0] + values[-1]) / 2)
    ).T


# Refusals.


@pytest.mark.parametrize(
    ("players", "count", "fix"), [(1, 9, "make more groups"), (3, 1, "take a larger count")]
)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_plans_that_are_too_small_are_refused(sampler: Sampler, players: int, count: int, fix: str) -> None:
    with pytest.raises(ConfigError) as error:
        sampler(players, count, 0)
    assert str(error.value) == (
        "the coalition plan is too small\n"
        f"  found:    {players} players, {count} draws\n"
        "  expected: at least 2 players, and 2 draws for a standard error\n"
        f"  fix:      {fix}"
    )


@pytest.mark.parametrize("players", [0, 1])
def test_all_coalitions_of_one_player_are_refused(players: int) -> None:
    with pytest.raises(ConfigError, match="the coalition plan is too small"):
        all_coalitions(players)


def test_all_coalitions_of_many_players_are_refused() -> None:
    with pytest.raises(ConfigError) as error:
        all_coalitions(17)
    assert str(error.value) == (
        "there are too many players to evaluate all coalitions\n"
        "  found:    17 players, 2 ** 17 coalitions\n"
        "  expected: at most 16 players\n"
        "  fix:      draw coalitions with permutations, kernel or uniform"
    )


@pytest.mark.parametrize(
    ("name", "count", "coefficients"),
    [
        ("shapley_kernel", 7, 7),  # as many pairs as free coefficients: nothing is left for an error
        ("banzhaf", 8, 8),
        ("shapley_interactions", 28, 28),
        ("banzhaf_interactions", 29, 29),
        ("shapley_kernel", 3, 7),  # fewer
        ("banzhaf_interactions", 20, 29),
    ],
)
def test_too_few_draws_for_a_regression_are_refused(name: str, count: int, coefficients: int) -> None:
    estimator, sampler = SAMPLED[name]
    plan = sampler(8, count, 0)
    with pytest.raises(ConfigError) as error:
        estimator(plan, torch.zeros(len(plan.coalitions), 2))
    assert str(error.value) == (
        "there are too few draws to fit the regression\n"
        f"  found:    {count} draws, {len(plan.coalitions)} coalitions of 8 players\n"
        f"  expected: so many that any {count - 1} of them determine all {coefficients} coefficients\n"
        f"  fix:      evaluate {sampler.__name__}(8, {4 * coefficients}, seed)"
    )


@pytest.mark.parametrize("players", [2, 3, 5, 10])
@pytest.mark.parametrize("name", ["shapley_kernel", "banzhaf", *INTERACTIONS])
def test_the_fix_for_too_few_draws_works(name: str, players: int) -> None:
    estimator, sampler = SAMPLED[name]
    for seed in range(20):
        count = 2
        for _ in range(3):  # the first fix is nearly always enough; else the next one doubles it
            plan = sampler(players, count, seed)
            try:
                estimator(plan, on(plan, random_table(players, 1)))
                break
            except ConfigError as error:
                count = int(error.fix.split(", ")[1])
        else:
            pytest.fail(f"{count} draws of {players} players are still too few")


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("shapley_permutation", "permutations or all_coalitions"),
        ("shapley_kernel", "kernel or all_coalitions"),
        ("banzhaf", "uniform or all_coalitions"),
        ("shapley_interactions", "kernel or all_coalitions"),
        ("banzhaf_interactions", "uniform or all_coalitions"),
    ],
)
def test_another_kind_of_plan_is_refused(name: str, kinds: str) -> None:
    estimator, own = SAMPLED[name]
    for sampler in SAMPLERS:
        if sampler is own:
            continue
        plan = sampler(4, 50, 0)
        with pytest.raises(ConfigError) as error:
            estimator(plan, torch.zeros(len(plan.coalitions), 1))
        assert str(error.value) == (
            "the estimator does not fit the coalition plan\n"
            f"  found:    a plan made by {sampler.__name__}\n"
            f"  expected: a plan made by {kinds}\n"
            f"  fix:      evaluate the coalitions of {own.__name__}(4, count, seed)"
        )


@pytest.mark.parametrize("shape", [(15, 2), (17, 2), (16,), (16, 2, 1), (2, 16)])
@pytest.mark.parametrize("name", SAMPLED)
def test_values_of_another_shape_are_refused(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError) as error:
        SAMPLED[name][0](all_coalitions(4), torch.zeros(shape))
    assert str(error.value) == (
        "the values do not fit the coalition plan\n"
        f"  found:    values of shape {shape}\n"
        "  expected: (16, queries): one row per coalition of the plan\n"
        "  fix:      evaluate plan.coalitions, in their order"
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("name", SAMPLED)
def test_values_that_are_not_finite_are_refused(name: str, bad: float) -> None:
    values = torch.zeros(16, 3)
    values[5, 1] = bad
    with pytest.raises(NumericsError) as error:
        SAMPLED[name][0](all_coalitions(4), values)
    assert str(error.value) == (
        "the value of a coalition is not finite\n"
        f"  found:    {bad} at coalition 5, query 1\n"
        "  expected: finite numbers\n"
        "  fix:      score that query again"
    )
