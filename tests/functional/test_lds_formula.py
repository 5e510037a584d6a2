"""The linear datamodelling score against scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import spearmanr

from guda_lightning.errors import ConfigError, NumericsError
from guda_lightning.functional.coalition_plans import subsets
from guda_lightning.functional.lds import lds, predicted_losses
from toys import message

# Whole numbers, so that there are ties.
LOSSES = arrays(np.int64, (3, 7), elements=st.integers(-3, 3)).filter(
    lambda values: bool((values != values[:, :1]).any(axis=1).all())
)
COUNTS = arrays(np.int64, (7,), elements=st.integers(0, 3))


@given(LOSSES, LOSSES)
def test_it_is_scipys_correlation_also_where_values_are_equal(x: np.ndarray, y: np.ndarray) -> None:
    found = lds(torch.from_numpy(x), torch.from_numpy(y))
    for row, value in enumerate(found):
        assert value.item() == pytest.approx(spearmanr(x[row], y[row]).statistic, abs=1e-12)


@given(LOSSES, LOSSES, COUNTS)
def test_a_subset_that_counts_twice_is_there_twice(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> None:
    found = lds(torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(counts)[None])
    assert found.shape == (1, 3)
    for row, value in enumerate(found[0]):
        first, second = (np.repeat(side[row], counts) for side in (x, y))
        if len(np.unique(first)) < 2 or len(np.unique(second)) < 2:
            assert value.isnan()
        else:
            assert value.item() == pytest.approx(spearmanr(first, second).statistic, abs=1e-12)


@given(st.integers(0, 10**6), st.floats(-100, 100))
def test_of_an_additive_game_it_is_one_whatever_the_offset_of_a_query(seed: int, offset: float) -> None:
    scores = torch.randn(4, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    removed = ~subsets(6, 3, 12, seed)
    measured = torch.stack([scores[:, row].sum(dim=1) for row in removed], dim=1)
    predicted = predicted_losses(scores, removed)
    torch.testing.assert_close(lds(predicted, measured), torch.ones(4).double())
    torch.testing.assert_close(lds(predicted, -measured + offset), -torch.ones(4).double())


def test_many_queries_are_taken_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, counts = torch.randn(9, 5), torch.randn(9, 5), torch.randint(0, 3, (4, 5))
    whole = lds(x, y, counts)
    monkeypatch.setattr("guda_lightning.functional.lds._CELLS", 50)
    torch.testing.assert_close(lds(x, y, counts), whole, equal_nan=True)


# refused


@pytest.mark.parametrize(("x", "y"), [((2, 2), (2, 2)), ((2, 4), (2, 5)), ((4,), (4,))])
def test_too_few_subsets_and_other_shapes_are_refused(x: tuple[int, ...], y: tuple[int, ...]) -> None:
    expected = message(
        "the losses of subsets cannot be compared",
        f"predicted {x}, measured {y}",
        "the same queries and subsets of both, at least 3 subsets",
        "train and score more subsets",
    )
    with pytest.raises(ConfigError, match=expected):
        lds(torch.zeros(x), torch.zeros(y))


def test_what_is_no_number_is_refused() -> None:
    expected = message(
        "the measured losses are not all finite",
        "nan at query 0, group 0",
        "finite numbers",
        "score that query again",
    )
    with pytest.raises(NumericsError, match=expected):
        lds(torch.randn(2, 3), torch.full((2, 3), torch.nan))
