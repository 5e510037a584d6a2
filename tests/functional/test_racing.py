from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from guda_lightning.errors import ConfigError, NumericsError
from guda_lightning.functional.moments import Moments
from guda_lightning.functional.racing import Decisions, Race, boundary, decide, race
from guda_lightning.functional.student import t_quantile


@dataclass
class Recorded:
    """Rounds drawn beforehand, and what a race requested."""

    rounds: Tensor
    requested: list[Tensor] = field(default_factory=list)

    def __call__(self, number: int, active: Tensor) -> Tensor:
        assert number == len(self.requested)
        self.requested.append(active.clone())
        return self.rounds[number].where(active, torch.nan)

    def race(self, **arguments: Any) -> Race:
        _, queries, groups = self.rounds.shape
        return race(self, queries, groups, **{"rounds_max": len(self.rounds), **arguments})


def normal(rounds: int, queries: int, groups: int, seed: int = 0) -> Tensor:
    """Noise with a large part that all groups of a query share."""
    g = torch.Generator().manual_seed(seed)
    shared = torch.randn(rounds, queries, 1, generator=g, dtype=torch.float64)
    return 5 * shared + torch.randn(rounds, queries, groups, generator=g, dtype=torch.float64) / math.sqrt(2)


def skewed(rounds: int, queries: int, groups: int, freedom: int, seed: int = 0) -> Tensor:
    """One χ² a round that moves groups 1, 2, ... down, the more the later: no group's noise is its own.

    Group 0 is most often beaten by the others, so a t-test errs on the side that costs it its place.
    """
    g = np.random.default_rng(seed)
    shared = (g.chisquare(freedom, size=(rounds, queries, 1)) - freedom) / math.sqrt(2 * freedom)
    return torch.from_numpy(-shared * np.arange(groups))


def contradicted(found: Decisions, k: int) -> int:
    """Queries in which a decision contradicts the first k groups being the top k."""
    return int((found.outside[:, :k].any(dim=1) | found.inside[:, k:].any(dim=1)).sum())


def more_often_than(probability: float, count: int, of: int) -> bool:
    """Whether so many cannot be chance: wrong once in 10⁴ times at the most."""
    return bool(scipy.stats.binomtest(count, of, probability, alternative="greater").pvalue < 1e-4)


def lead(gap: float, groups: int, k: int) -> Tensor:
    means = torch.zeros(groups, dtype=torch.float64)
    means[:k] = gap
    return means


@pytest.mark.parametrize(("groups", "k", "rounds_min"), [(2, 1, 2), (2, 1, 3), (6, 1, 3), (6, 3, 3)])
@pytest.mark.parametrize("gap", [0.0, 0.1, 0.5, 2.0])
def test_normal_rounds_err_at_most_with_half_delta(groups: int, k: int, rounds_min: int, gap: float) -> None:
    queries, delta = 2000, 0.2
    rounds = normal(10, queries, groups) + lead(gap, groups, k)
    found = Recorded(rounds).race(k=k, delta=delta, rounds_min=rounds_min)
    assert not more_often_than(delta / 2, contradicted(found.decisions, k), queries)


def test_a_tie_is_called_decided_at_most_with_delta() -> None:
    queries, delta = 6000, 0.2
    found = Recorded(normal(10, queries, 2)).race(delta=delta)
    called = int(found.decisions.done.sum())
    assert not more_often_than(delta, called, queries)
    assert more_often_than(delta / 4, called, queries)  # so the bound is not far from sharp


def test_the_bound_is_needed_for_looks_and_for_pairs() -> None:
    queries, delta = 6000, 0.2
    for groups, looks, pairs in ((2, 1, 1), (6, 8, 1)):  # a correction left out: for looks, for pairs
        tail = delta / looks / pairs
        thresholds = torch.cat([torch.full((3,), torch.inf), t_quantile(tail, torch.arange(2, 10))])
        differences, found = Moments.zeros(queries, groups, groups), Decisions.none(queries, groups)
        for values in normal(10, queries, groups):
            differences = differences.add(values[:, :, None] - values[:, None, :])
            found = decide(differences, found, k=1, thresholds=thresholds)
        assert more_often_than(delta / 2, contradicted(found, 1), queries)


@pytest.mark.parametrize(("groups", "k"), [(2, 1), (6, 1), (6, 3)])
@pytest.mark.parametrize("gap", [0.0, 0.1, 0.5])
def test_rounds_of_skewness_one_err_at_most_with_delta(groups: int, k: int, gap: float) -> None:
    queries, delta = 2000, 0.1
    rounds = skewed(10, queries, groups, freedom=8) + lead(gap, groups, k)
    found = Recorded(rounds).race(k=k, delta=delta)
    assert not more_often_than(delta, contradicted(found.decisions, k), queries)


def test_a_single_squared_normal_per_round_is_too_skewed() -> None:
    """The limit of the assumption, which the module's docstring points to."""
    queries, delta = 6000, 0.1
    found = Recorded(skewed(10, queries, 2, freedom=1)).race(delta=delta)
    assert more_often_than(delta, contradicted(found.decisions, 1), queries)


@pytest.mark.parametrize("k", [1, 3])
def test_large_gaps_stop_early_and_right(k: int) -> None:
    rounds = normal(20, 300, 8) + 30 * torch.arange(8, 0, -1)
    found = Recorded(rounds).race(k=k)
    assert found.decisions.done.all()
    assert contradicted(found.decisions, k) == 0
    assert found.evaluations.double().mean() < 0.3 * 20 * 9
    assert (found.rounds >= 3).all()


def test_only_the_groups_at_the_edge_go_on() -> None:
    means = torch.tensor([100.0, 50.0, 50.0, 0.0])
    recorded = Recorded(normal(12, 200, 4) + means)
    found = recorded.race(k=2, delta=1e-3)
    assert (found.rounds[:, 1:3] == 12).all()
    assert (found.rounds[:, [0, 3]] < 12).all()
    assert found.decisions.inside[:, 0].all()
    assert found.decisions.outside[:, 3].all()


seeds = st.integers(0, 2**31)


@st.composite
def races(draw: st.DrawFn) -> tuple[Recorded, dict[str, Any]]:
    groups = draw(st.integers(2, 6))
    rounds_min = draw(st.integers(2, 4))
    shape = (draw(st.integers(rounds_min, 8)), draw(st.integers(1, 5)), groups)
    gaps = draw(st.sampled_from([0.0, 1.0, 10.0, 100.0])) * normal(1, *shape[1:], seed=draw(seeds))
    arguments = {
        "k": draw(st.integers(1, groups - 1)),
        "delta": draw(st.sampled_from([1e-3, 0.05, 0.5])),
        "rounds_min": rounds_min,
    }
    return Recorded(normal(*shape, seed=draw(seeds)) + gaps), arguments


@settings(deadline=None)  # the machine may be busy
@given(races())
def test_decisions_and_scores_are_those_of_scipy_on_all_rounds(case: tuple[Recorded, dict[str, Any]]) -> None:
    recorded, arguments = case
    found = recorded.race(**arguments)
    for query, rounds in enumerate(recorded.rounds.permute(1, 0, 2).numpy()):
        inside, outside, lasted = raced_by_scipy(rounds, **arguments)
        groups = rounds.shape[1]
        assert found.decisions.inside[query].tolist() == [i in inside for i in range(groups)]
        assert found.decisions.outside[query].tolist() == [i in outside for i in range(groups)]
        assert found.rounds[query].tolist() == lasted
        for group, number in enumerate(lasted):
            seen = rounds[:number, group]
            assert found.scores[query, group].item() == pytest.approx(seen.mean(), abs=1e-10)
            assert found.stderr[query, group].item() == pytest.approx(scipy.stats.sem(seen), abs=1e-10)


def raced_by_scipy(
    rounds: np.ndarray[Any, Any], k: int, delta: float, rounds_min: int
) -> tuple[set[int], set[int], list[int]]:
    """A race of one query, with the p-values of scipy's paired t-test: in, out, rounds of each group."""
    total, groups = rounds.shape
    tail = delta / (k * (groups - k)) / (total - rounds_min + 1)
    undecided, inside, outside, lasted = set(range(groups)), set[int](), set[int](), [0] * groups
    for number in range(1, total + 1):
        for group in undecided:
            lasted[group] = number
        if number < rounds_min:
            continue
        above = {
            (i, j)
            for i, j in itertools.permutations(undecided, 2)
            if rounds[:number, i].mean() > rounds[:number, j].mean()
            and scipy.stats.ttest_rel(rounds[:number, i], rounds[:number, j]).pvalue < tail
        }
        changed = True
        while changed:
            places, size = k - len(inside), len(undecided)
            wins = {i: sum((i, j) in above for j in undecided) for i in undecided}
            losses = {i: sum((j, i) in above for j in undecided) for i in undecided}
            enter = {i for i in undecided if wins[i] >= size - places}
            leave = {i for i in undecided if losses[i] >= places}
            inside, outside, undecided = inside | enter, outside | leave, undecided - enter - leave
            changed = bool(enter | leave)
    return inside, outside, lasted


@settings(deadline=None)  # the machine may be busy
@given(st.lists(st.integers(0, 9), min_size=2, max_size=6), st.data())
def test_decided_is_what_all_possible_top_sets_share(values: list[int], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(values) - 1))
    means = torch.tensor([values], dtype=torch.float64)
    gap = means[:, :, None] - means[:, None, :]
    # 4 rounds and a scatter of 12 make the standard error 1, so a lead of more than 3 counts
    differences = Moments(torch.full_like(gap, 4, dtype=torch.int64), gap, torch.full_like(gap, 12))
    found = decide(
        differences, Decisions.none(1, len(values)), k=k, thresholds=torch.full((5,), 3.0).double()
    )
    possible = [
        set(top)
        for top in itertools.combinations(range(len(values)), k)
        if not any(values[j] - values[i] > 3 for i in top for j in range(len(values)) if j not in top)
    ]
    everywhere, nowhere = set.intersection(*possible), set(range(len(values))) - set.union(*possible)
    assert set(found.inside[0].nonzero().flatten().tolist()) == everywhere
    assert set(found.outside[0].nonzero().flatten().tolist()) == nowhere


def test_when_all_places_are_taken_the_others_are_out() -> None:
    # 0 is above 1 and 2, 1 above 2 and 3. Only 1 is above 3, whose other differences are too noisy:
    # that alone would not put it out.
    mean = torch.tensor([[9.0, 6.0, 3.0, 0.0]]).double()
    gap, scatter = mean[:, :, None] - mean[:, None, :], torch.full((1, 4, 4), 0.1).double()
    scatter[0, [0, 2], 3] = scatter[0, 3, [0, 2]] = 1e6
    differences = Moments(torch.full((1, 4, 4), 5), gap, scatter)
    thresholds = boundary(4, k=2, delta=0.1, rounds_min=5, rounds_max=5)
    found = decide(differences, Decisions.none(1, 4), k=2, thresholds=thresholds)
    assert found.inside.tolist() == [[True, True, False, False]]
    assert found.done.all()


def test_what_is_certain_stays_so() -> None:
    before = Decisions(torch.tensor([[True, False, False]]), torch.tensor([[False, False, True]]))
    thresholds = boundary(3, k=2, delta=0.05, rounds_min=3, rounds_max=9)
    found = decide(Moments.zeros(1, 3, 3), before, k=2, thresholds=thresholds)
    assert found.inside.tolist() == [[True, True, False]]  # the last one for the last place
    assert found.outside.tolist() == [[False, False, True]]


@settings(deadline=None)  # the machine may be busy
@given(races())
def test_evaluations_are_those_asked_for_and_within_the_budget(
    case: tuple[Recorded, dict[str, Any]],
) -> None:
    recorded, arguments = case
    found = recorded.race(**arguments)
    requested = torch.stack(recorded.requested)
    rounds, _, groups = recorded.rounds.shape
    assert torch.equal(found.rounds, requested.sum(dim=0))
    assert torch.equal(found.evaluations, (requested.sum(dim=2) + requested.any(dim=2)).sum(dim=0))
    assert (found.evaluations <= rounds * (groups + 1)).all()
    assert not (requested[1:] & ~requested[:-1]).any()  # what stopped stays stopped
    assert requested[: arguments["rounds_min"]].all()
    assert requested.any(dim=(1, 2)).all()  # no round of nothing
    assert (found.rounds[found.decisions.undecided] == rounds).all()


@settings(deadline=None)  # the machine may be busy
@given(races())
def test_no_more_in_or_out_than_there_are_places(case: tuple[Recorded, dict[str, Any]]) -> None:
    recorded, arguments = case
    found, k = recorded.race(**arguments).decisions, arguments["k"]
    assert not (found.inside & found.outside).any()
    assert (found.inside.sum(dim=1) <= k).all()
    assert (found.outside.sum(dim=1) <= found.outside.shape[1] - k).all()
    assert (found.inside.sum(dim=1)[found.done] == k).all()


@pytest.mark.parametrize("equal_models", [True, False])
def test_a_race_that_decides_nothing_is_the_fixed_plan(equal_models: bool) -> None:
    rounds = normal(7, 20, 5)
    if equal_models:
        rounds = rounds[:, :, :1].expand(-1, -1, 5)
    found = Recorded(rounds).race(delta=0.5 if equal_models else 1e-9)
    assert found.decisions.undecided.all()
    torch.testing.assert_close(found.scores, rounds.mean(dim=0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.stderr, rounds.std(dim=0) / math.sqrt(7), rtol=1e-12, atol=1e-12)
    assert (found.evaluations == 7 * 6).all()
    assert torch.equal(found.ranking, found.scores.argsort(dim=1, descending=True, stable=True))


def test_groups_that_differ_by_a_constant_stay_undecided() -> None:
    rounds = torch.randint(9, (6, 1, 1)).double() + torch.tensor([2.0, 1.0, 0.0])
    assert Recorded(rounds).race(delta=0.5).decisions.undecided.all()


@settings(deadline=None)  # the machine may be busy
@given(races(), st.randoms(use_true_random=False))
def test_the_order_of_groups_and_queries_does_not_matter(
    case: tuple[Recorded, dict[str, Any]], random: Any
) -> None:
    recorded, arguments = case
    _, queries, groups = recorded.rounds.shape
    some = random.sample(range(queries), k=random.randint(1, queries))  # so queries do not touch each other
    order = random.sample(range(groups), k=groups)
    whole = recorded.race(**arguments)
    other = Recorded(recorded.rounds[:, some][:, :, order]).race(**arguments)
    for name in ("scores", "stderr", "rounds"):
        assert torch.equal(getattr(other, name), getattr(whole, name)[some][:, order])
    assert torch.equal(other.decisions.inside, whole.decisions.inside[some][:, order])
    assert torch.equal(other.decisions.outside, whole.decisions.outside[some][:, order])
    assert torch.equal(other.evaluations, whole.evaluations[some])
    assert torch.equal(torch.tensor(order)[other.ranking], whole.ranking[some])


@settings(deadline=None)  # the machine may be busy
@given(races())
def test_ranking_puts_the_undecided_between_in_and_out(case: tuple[Recorded, dict[str, Any]]) -> None:
    found = case[0].race(**case[1])
    for query, ranking in enumerate(found.ranking.tolist()):
        inside, outside = found.decisions.inside[query].tolist(), found.decisions.outside[query].tolist()
        scores = found.scores[query].tolist()
        expected = sorted(range(len(scores)), key=lambda i: (outside[i] - inside[i], -scores[i]))
        assert ranking == expected


def test_noise_that_all_groups_share_does_not_matter() -> None:
    quiet = normal(10, 200, 5) + torch.arange(5)
    loud = quiet + 2.0**20 * torch.randint(-9, 9, (10, 200, 1))
    one, other = Recorded(quiet).race().decisions, Recorded(loud).race().decisions
    assert one.done.any()
    assert not one.done.all()
    assert torch.equal(one.inside, other.inside)
    assert torch.equal(one.outside, other.outside)


def test_boundary_shares_the_error_among_pairs_and_looks() -> None:
    thresholds = boundary(10, k=3, delta=0.05, rounds_min=3, rounds_max=7)
    expected = scipy.stats.t.isf(0.05 / (3 * 7) / 5 / 2, np.arange(2, 7))
    assert thresholds.tolist() == [math.inf] * 3 + [pytest.approx(t) for t in expected]


def test_no_queries_are_no_race() -> None:
    found = race(lambda number, active: pytest.fail("there is nothing to evaluate"), 0, 3)
    assert found.scores.shape == found.ranking.shape == (0, 3)


def test_what_was_not_asked_for_is_not_read() -> None:
    rounds = normal(12, 30, 4) + torch.tensor([100.0, 50.0, 50.0, 0.0])
    nonsense = torch.where(torch.rand(30, 4) < 0.5, torch.inf, -1e9).double()
    one = Recorded(rounds).race(k=2)
    other = race(lambda n, active: rounds[n].where(active, nonsense), 30, 4, k=2, rounds_max=12)
    assert torch.equal(one.scores, other.scores)
    assert torch.equal(one.decisions.inside, other.decisions.inside)
    assert (one.rounds != one.rounds[:, :1]).any()  # some stopped while others of their query went on


def message(problem: str, found: str, expected: str, fix: str) -> str:
    return "^" + re.escape(f"{problem}\n  found:    {found}\n  expected: {expected}\n  fix:      {fix}") + "$"


@pytest.mark.parametrize(
    ("groups", "arguments", "expected"),
    [
        (
            3,
            {"k": 3},
            (
                "k is out of range",
                "3",
                "1 <= k < 3, the number of groups",
                "take a k from 1 to 2",
            ),
        ),
        (
            3,
            {"k": 0},
            (
                "k is out of range",
                "0",
                "1 <= k < 3, the number of groups",
                "take a k from 1 to 2",
            ),
        ),
        (
            1,
            {},
            (
                "k is out of range",
                "1",
                "1 <= k < 1, the number of groups",
                "score at least two groups",
            ),
        ),
        *(
            (3, {"delta": delta}, ("delta is out of range", str(delta), "0 < delta < 1", "take 0.05"))
            for delta in (0, 1, -0.1, math.nan)
        ),
        (
            3,
            {"rounds_min": 1},
            (
                "rounds_min is out of range",
                "1",
                "rounds_min >= 2, since one round has no variance",
                "take 3",
            ),
        ),
        (
            3,
            {"rounds_min": 5, "rounds_max": 4},
            (
                "rounds_max is out of range",
                "4",
                "rounds_max >= 5",
                "take rounds_max >= 5, or fewer rounds_min",
            ),
        ),
    ],
)
def test_arguments_out_of_range(
    groups: int, arguments: dict[str, Any], expected: tuple[str, str, str, str]
) -> None:
    with pytest.raises(ConfigError, match=message(*expected)):
        race(lambda number, active: pytest.fail("evaluated before the check"), 2, groups, **arguments)


def test_more_rounds_than_planned_are_refused() -> None:
    differences = Moments.zeros(1, 2, 2)
    for values in torch.randn(5, 1, 2, 2):
        differences = differences.add(values)
    thresholds = boundary(2, k=1, delta=0.05, rounds_min=3, rounds_max=4)
    expected = message(
        "there are more rounds than were planned",
        "5 rounds",
        "at most 4, among which the allowed error is shared out",
        "make the boundary for as many rounds as may be needed, before the first look",
    )
    with pytest.raises(ConfigError, match=expected):
        decide(differences, Decisions.none(1, 2), k=1, thresholds=thresholds)


def test_scores_of_another_shape_are_refused() -> None:
    expected = message(
        "the scores of a round have the wrong shape",
        "shape (3, 2) in round 0",
        "shape (2, 3), queries and groups",
        "return one score per query and group, NaN where it is not active",
    )
    with pytest.raises(ConfigError, match=expected):
        race(lambda number, active: torch.zeros(3, 2), 2, 3)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_scores_that_are_no_numbers_are_refused(bad: float) -> None:
    rounds = normal(5, 2, 3)
    rounds[1, 0, 2] = bad
    expected = message(
        "a score of a round is not finite",
        f"{bad} at query 0, group 2, round 1",
        "a finite number for every active group",
        "look at that query and that group's counterfactual; score in fp32 if bf16 overflows",
    )
    with pytest.raises(NumericsError, match=expected):
        Recorded(rounds).race(delta=1e-6)
