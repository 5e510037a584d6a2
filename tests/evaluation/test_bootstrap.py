from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from guda_lightning.errors import ConfigError
from guda_lightning.evaluation import bootstrap
from guda_lightning.evaluation.bootstrap import (
    check_resampling,
    interval,
    resampled_means,
    share_above_zero,
)
from toys import message


def test_mean_and_covariance_are_those_of_drawing_queries_and_seeds() -> None:
    # As many queries as seeds: both would draw the same if they shared a stream of random numbers.
    values = torch.randn(5, 5, 2, dtype=torch.float64) + torch.randn(5, 1, 2) + torch.randn(1, 5, 2)
    drawn = resampled_means(values, 200_000, seed=1)
    assert drawn.shape == (200_000, 2)
    # How often two items are drawn together: n draws of n items with equal chances.
    products = [np.full((n, n), 1 - 1 / n) + np.eye(n) for n in (5, 5)]
    second = np.einsum("ij,st,isa,jtb->ab", *products, values.numpy(), values.numpy()) / 25**2
    mean = values.mean(dim=(0, 1)).numpy()
    covariance = second - np.outer(mean, mean)
    error = np.sqrt(np.diag(covariance) / 200_000)
    np.testing.assert_array_less(abs(drawn.mean(dim=0).numpy() - mean), 5 * error)
    scale = np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    np.testing.assert_allclose(np.cov(drawn.T.numpy()) / scale, covariance / scale, atol=0.02)


@settings(deadline=None)  # the machine may be busy
@given(st.integers(1, 7), st.integers(1, 4), st.integers(1, 9), st.integers(0, 5))
def test_a_resample_is_a_mean_of_items_that_are_there(
    queries: int, seeds: int, resamples: int, seed: int
) -> None:
    # Powers of a base larger than any count: a mean then tells how often each item was drawn.
    base = queries + seeds + 1
    of_queries = torch.tensor([float(base**i) for i in range(queries)])[:, None].expand(-1, seeds)
    of_seeds = torch.tensor([float(base**i) for i in range(seeds)])[None].expand(queries, -1)
    drawn = resampled_means(torch.stack([of_queries, of_seeds], dim=2), resamples, seed)
    for items, column in ((queries, 0), (seeds, 1)):
        for mean in drawn[:, column].tolist():
            total, digits = round(mean * items), []
            for _ in range(items):
                total, digit = divmod(total, base)
                digits.append(digit)
            assert total == 0
            assert sum(digits) == items


def test_calls_with_one_seed_are_paired_and_other_seeds_differ() -> None:
    values = torch.randn(9, 1, 3, dtype=torch.float64)
    first = resampled_means(values, 50, seed=0)
    torch.testing.assert_close(resampled_means(values[..., 1:2], 50, seed=0), first[:, 1:2])
    torch.testing.assert_close(
        resampled_means(values.expand(-1, 5, -1), 50, seed=0), first
    )  # seeds are alike
    assert not torch.equal(resampled_means(values, 50, seed=1), first)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.randn(9, 3, 2, dtype=torch.float64)
    whole = resampled_means(values, 50, seed=0)
    for chunk in (1, 9 * 7):
        monkeypatch.setattr(bootstrap, "_CHUNK", chunk)
        torch.testing.assert_close(resampled_means(values, 50, seed=0), whole)


def test_the_interval_of_many_queries_is_that_of_the_normal_law() -> None:
    values = torch.randn(5000, 1, 1, dtype=torch.float64)
    low, high = interval(resampled_means(values, 20_000, seed=0), 0.9)
    error = values.std().item() / 5000**0.5
    expected = scipy.stats.norm.interval(0.9, values.mean().item(), error)
    np.testing.assert_allclose([low[0], high[0]], expected, atol=0.05 * error)


def test_the_interval_leaves_out_nan() -> None:
    drawn = torch.stack([torch.arange(101.0), torch.arange(101.0)], dim=1).double()
    drawn[:50, 1] = torch.nan
    low, high = interval(drawn, 0.8)
    np.testing.assert_allclose(low, [10, 55])
    np.testing.assert_allclose(high, [90, 95])


def test_ties_count_half_also_to_within_rounding() -> None:
    drawn = torch.tensor([[1.0, 0.0, 0.1 + 0.2 - 0.3], [-1.0, 0.0, 0.0], [2.0, 3.0, 0.0], [5.0, 0.0, -1.0]])
    assert share_above_zero(drawn.double()).tolist() == [0.75, 0.625, 0.375]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((0, 0.95, 0), ("resamples is out of range", 0, "resamples >= 1", "take the usual 2000")),
        ((9, 1.0, 0), ("level is out of range", 1.0, "0 < level < 1", "take the usual 0.95")),
        ((9, float("nan"), 0), ("level is out of range", "nan", "0 < level < 1", "take the usual 0.95")),
        ((9, 0.95, -1), ("seed is out of range", -1, "seed >= 0", "take the usual 0")),
    ],
)
def test_options_out_of_range(
    options: tuple[int, float, int], expected: tuple[str, object, object, str]
) -> None:
    with pytest.raises(ConfigError, match=message(*expected)):
        check_resampling(*options)
