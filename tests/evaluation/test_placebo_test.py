from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from guda_lightning.data.grouping import Grouping
from guda_lightning.errors import ConfigError, NumericsError
from guda_lightning.evaluation.placebo_test import PlaceboTest, placebo_test
from toys import message

M = 99


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# the p-value


def test_a_p_value_by_hand() -> None:
    observed = torch.tensor([[0.0, 3.0], [9.0, -9.0], [1.0, 1.0]])
    placebo = torch.zeros(M, 3, 2)
    placebo[:4, 0] = torch.tensor([[3.0, 0.0], [2.9, 2.9], [-1.0, 5.0], [0.0, 3.0]])  # 3 of them reach 3
    placebo[:, 2, 0] = 1.0  # all of them tie
    test = placebo_test(observed, placebo)
    assert test.p.tolist() == [4 / 100, 1 / 100, 100 / 100]
    assert test.adjusted.tolist() == [6 / 100, 3 / 100, 100 / 100]
    assert test.attributable.tolist() == [False, True, False]
    assert (test.floor, test.level, test.partitions) == (0.01, 0.05, 99)
    assert test.p.dtype == test.adjusted.dtype == torch.float64


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 5))
@settings(deadline=None, max_examples=25)
def test_it_is_the_monte_carlo_p_value_of_scipy(seed: int, queries: int, groups: int) -> None:
    # Few levels, so that ties are common.
    scores = torch.randint(0, 12, (1 + M, queries, groups), generator=generator(seed)).double()
    test = placebo_test(scores[0], scores[1:])
    for query in range(queries):
        reference = stats.monte_carlo_test(
            scores[0, query].numpy(),
            # One partition a call: scipy asks for as many samples as there are observations.
            lambda size, query=query: scores[1:, query].numpy().reshape(size),
            lambda sample, axis: sample.max(axis=axis),
            n_resamples=M,
            alternative="greater",
        )
        assert test.p[query].item() == pytest.approx(reference.pvalue, abs=1e-12)


def null_scores(kind: str, queries: int, seed: int) -> Tensor:
    """``[1 + M, queries, groups]`` where the first partition is like all others; queries are independent."""
    noise = torch.randn(1 + M, queries, 5, generator=generator(seed), dtype=torch.float64)
    scale = torch.tensor([1.0, 1, 2, 5, 10], dtype=torch.float64)  # small groups vary more
    return {"normal": noise, "heavy tails": noise**5, "unequal groups": noise * scale}[kind]


@pytest.mark.parametrize("kind", ["normal", "heavy tails", "unequal groups"])
def test_p_values_are_uniform_where_groups_mean_nothing(kind: str) -> None:
    scores = null_scores(kind, queries=4000, seed=1)
    test = placebo_test(scores[0], scores[1:])
    counts = torch.bincount((test.p * 100).round().long(), minlength=101)
    assert counts[0] == 0  # the floor of 1/100
    assert stats.chisquare(counts[1:].numpy()).pvalue > 0.001
    spread = test.p - torch.rand(4000, generator=generator(2), dtype=torch.float64) / 100
    assert stats.kstest(spread.numpy(), "uniform").pvalue > 0.001


def test_ties_only_make_p_values_larger() -> None:
    scores = null_scores("normal", queries=4000, seed=3)
    fine, coarse = placebo_test(scores[0], scores[1:]), placebo_test(scores[0].round(), scores[1:].round())
    assert (coarse.p >= fine.p).all()
    assert (coarse.p > fine.p).any()


@given(st.integers(0, 10**6))
@settings(deadline=None, max_examples=25)
def test_it_sees_the_order_of_scores_alone(seed: int) -> None:
    scores = null_scores("normal", queries=7, seed=seed)
    test = placebo_test(scores[0], scores[1:])
    shuffled = scores[1:][torch.randperm(M, generator=generator(seed))]
    columns = torch.randperm(5, generator=generator(seed))
    assert torch.equal(placebo_test(scores[0], shuffled).p, test.p)
    assert torch.equal(placebo_test(scores[0][:, columns], scores[1:]).p, test.p)
    assert torch.equal(placebo_test(scores[0].exp(), scores[1:].exp()).p, test.p)
    assert torch.equal(placebo_test(scores[0].float(), scores[1:].float()).p, test.p)


@given(st.integers(0, 10**6), st.integers(1, 40), st.sampled_from([99, 199, 998]))
@settings(deadline=None, max_examples=50)
def test_the_adjustment_is_that_of_scipy(seed: int, queries: int, partitions: int) -> None:
    scores = torch.randn(1 + partitions, queries, 2, generator=generator(seed))
    scores[0, : queries // 2] += 3
    test = placebo_test(scores[0], scores[1:], level=0.1)
    reference = stats.false_discovery_control(test.p.numpy(), method="bh")
    assert test.adjusted.numpy() == pytest.approx(reference, abs=1e-12)
    assert test.floor == 1 / (1 + partitions)
    assert (test.floor <= test.p).all()
    assert (test.p <= test.adjusted).all()
    assert (test.adjusted <= 1).all()
    assert torch.equal(test.attributable, test.adjusted <= 0.1)


def test_a_value_that_equals_the_level_counts() -> None:
    assert 0.05 * 3 / 3 > 0.05  # in floating point
    placebo = torch.zeros(M, 3, 1)
    placebo[:4] = 1.0
    test = placebo_test(torch.ones(3, 1), placebo, level=0.05)
    assert test.p.tolist() == test.adjusted.tolist() == [0.05, 0.05, 0.05]
    assert test.attributable.all()


# from training samples to p-values


SAMPLES, QUERIES = 120, 60
GROUPING = Grouping({"a": range(30), "b": range(20, 60), "c": range(60, 70), "none": range(70, 110)}, SAMPLES)


def group_scores(influence: Tensor, grouping: Grouping) -> Tensor:
    """Mean influence of each group's samples: ``[queries, samples] -> [queries, groups]``."""
    members = torch.from_numpy(grouping.membership()).double()
    return influence @ members / members.sum(dim=0)


def outcome(influence: Tensor, first_seed: int = 0) -> PlaceboTest:
    partitions = [GROUPING.permuted(first_seed + i, "placebo") for i in range(M)]
    placebo = torch.stack([group_scores(influence, partition) for partition in partitions])
    return placebo_test(group_scores(influence, GROUPING), placebo)


def test_permuted_groups_give_uniform_p_values() -> None:
    """Every sample has its influence, but the groups have nothing to do with it."""
    values = []
    for seed in range(60):  # each with partitions of its own, so that the p-values are independent
        influence = torch.randn(1, SAMPLES, generator=generator(seed), dtype=torch.float64).exp()
        values.append(outcome(influence, seed * M).p.item())
    spread = np.array(values) - np.random.default_rng(0).random(60) / 100
    assert stats.kstest(spread, "uniform").pvalue > 0.001


def test_planted_influence_is_found_and_nothing_else() -> None:
    influence = torch.randn(QUERIES, SAMPLES, generator=generator(0), dtype=torch.float64)
    assert not outcome(influence).attributable.any()
    planted = influence.clone()
    planted[:20, 60:70] += 2.0  # group c made the first twenty queries
    attributable = outcome(planted).attributable
    assert attributable[:20].all()
    assert attributable[20:].sum() <= 3


def test_false_discoveries_stay_below_the_level() -> None:
    shares = []
    for seed in range(100):
        scores = null_scores("normal", queries=40, seed=seed)
        scores[0, :10, 2] += 6.0
        attributable = placebo_test(scores[0], scores[1:], level=0.2).attributable
        assert attributable[:10].sum() >= 9
        shares.append((attributable[10:].sum() / attributable.sum().clamp(min=1)).item())
    # Expected: level * 30/40 = .15, with a standard error of .01.
    assert 0.1 < np.mean(shares) < 0.2


# refused


@pytest.mark.parametrize(
    ("observed", "placebo"),
    [
        ((4, 3), (M, 4, 2)),
        ((4, 3), (M, 5, 3)),
        ((4, 3), (4, 3)),
        ((4,), (M, 4)),
        ((0, 3), (M, 0, 3)),
        ((4, 0), (M, 4, 0)),
    ],
)
def test_other_shapes_are_refused(observed: tuple[int, ...], placebo: tuple[int, ...]) -> None:
    expected = message(
        "observed and placebo scores do not fit",
        f"observed of shape {observed}, placebo of shape {placebo}",
        "(queries, groups) and (partitions, queries, groups), none of them 0",
        "score the same queries under every partition, with as many groups as the real one has",
    )
    with pytest.raises(ConfigError, match=expected):
        placebo_test(torch.zeros(observed), torch.zeros(placebo))


@pytest.mark.parametrize(("partitions", "smallest"), [(98, "0.0101"), (19, "0.05"), (0, "1")])
def test_too_few_partitions_are_refused(partitions: int, smallest: str) -> None:
    expected = message(
        "there are too few placebo partitions",
        f"{partitions}, whose smallest possible p-value is {smallest}",
        "at least 99, for a smallest p-value of 0.01",
        "pass --partitions 99, or more",
    )
    with pytest.raises(ConfigError, match=expected):
        placebo_test(torch.zeros(4, 3), torch.zeros(partitions, 4, 3))


@pytest.mark.parametrize("level", [0.0, 0.009, 1.0, -0.05, math.nan])
def test_a_level_that_no_p_value_reaches_is_refused(level: float) -> None:
    expected = message(
        "the level is out of range",
        level,
        "0.01, the smallest p-value of 99 partitions, to 1",
        "take the usual 0.05, or make more partitions",
    )
    with pytest.raises(ConfigError, match=expected):
        placebo_test(torch.zeros(4, 3), torch.zeros(M, 4, 3), level)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_scores_that_are_no_numbers_are_refused(bad: float) -> None:
    observed, placebo = torch.zeros(4, 3), torch.zeros(M, 4, 3)
    fix = "score that query again"
    observed[2, 1] = bad
    text = message(
        "the observed scores are not all finite", f"{bad} at query 2, group 1", "finite numbers", fix
    )
    with pytest.raises(NumericsError, match=text):
        placebo_test(observed, placebo)
    placebo[7, 0, 2] = bad
    found = f"{bad} at partition 7, query 0, group 2"
    text = message("the placebo scores are not all finite", found, "finite numbers", fix)
    with pytest.raises(NumericsError, match=text):
        placebo_test(torch.zeros(4, 3), placebo)
