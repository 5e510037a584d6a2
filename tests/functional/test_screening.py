"""Which groups a screen keeps, and whether the chance of a missed one is what it says."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch

from guda_lightning.errors import ConfigError, NumericsError
from guda_lightning.functional.screening import best_places, missed_chance
from toys import message


def test_best_places_are_those_of_each_group_in_any_query() -> None:
    scores = torch.tensor([[3.0, 2.0, 1.0, 0.0], [1.0, 2.0, 3.0, 0.0], [9.0, 9.0, 1.0, 0.0]])
    best, queries = best_places(scores)
    assert best.tolist() == [0, 1, 0, 3]
    assert queries.tolist() == [2, 3, 1, 3]


def test_the_chance_for_one_query_is_that_of_the_prediction_interval() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=9), rng.normal(size=6)
    x[8] = x[:6].min() - 2  # below which the line is not continued
    line = scipy.stats.linregress(x[:6], y)
    residual = np.sqrt(np.square(y - line.intercept - line.slope * x[:6]).sum() / 4)
    expected = 0.0
    for out in x[6:].clip(min=x[:6].min()):
        spread = np.square(x[:6] - x[:6].mean()).sum()
        error = residual * np.sqrt(1 + 1 / 6 + (out - x[:6].mean()) ** 2 / spread)
        predicted = line.intercept + line.slope * out
        expected += scipy.stats.t.sf((np.sort(y)[-2] - predicted) / error, 4)
    kept = torch.arange(9) < 6
    found = missed_chance(torch.from_numpy(x)[None], torch.from_numpy(y)[None], kept, 2)
    assert found.item() == pytest.approx(min(1.0, expected), rel=1e-9)


@pytest.mark.parametrize(("k", "noise"), [(1, 2.0), (3, 1.0), (3, 2.0)])
def test_leaders_are_missed_no_more_often_than_stated_and_not_far_less(k: int, noise: float) -> None:
    """Kept are a query's first groups by their cheap scores, and others that stand anywhere.

    Queries have scales of their own.
    """
    generator = torch.Generator().manual_seed(k)
    cheap = torch.randn(1000, 30, generator=generator, dtype=torch.float64).sort(descending=True).values
    scale = torch.linspace(0.5, 2, 1000, dtype=torch.float64)[:, None]
    true = 2 * cheap + noise * scale * torch.randn(1000, 30, generator=generator, dtype=torch.float64) + 5
    kept = (torch.arange(30) < 8) | (torch.arange(30) % 5 == 4)
    stated = missed_chance(cheap, true[:, kept], kept, k)
    missed = (~kept[true.topk(k, dim=1).indices]).any(dim=1).double()
    bound = 3 * missed.std() / 1000**0.5
    assert missed.mean() <= stated.mean() + bound
    assert stated.mean() <= 3 * missed.mean() + bound
    # Queries of a larger stated chance are missed more often.
    sure = stated < stated.median()
    assert missed[sure].mean() <= missed[~sure].mean()


def test_alike_cheap_scores_are_refused() -> None:
    with pytest.raises(
        NumericsError,
        match=message(
            "the cheap scores do not tell the kept groups apart",
            "the same number for all 4 of them, in every query",
            "numbers that differ between groups",
            "screen by another method",
        ),
    ):
        missed_chance(torch.zeros(2, 6), torch.rand(2, 4), torch.arange(6) < 4, 1)


def test_a_line_needs_four_groups() -> None:
    with pytest.raises(
        ConfigError, match=message("kept groups is out of range", "3", "kept groups >= 4", "keep 4 or more")
    ):
        missed_chance(torch.rand(1, 6), torch.rand(1, 3), torch.arange(6) < 3, 1)
