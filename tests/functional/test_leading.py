"""Which samples lead with a group, one by one, and Wilson's interval as scipy computes it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from guda_lightning.functional.leading import margins, share_interval


@given(st.integers(0, 2**32 - 1), st.integers(0, 3), st.sets(st.integers(0, 3), min_size=1))
def test_a_margin_is_the_difference_to_the_best_rival(seed: int, column: int, rivals: set[int]) -> None:
    rivals = {(column + 1 + other) % 5 for other in rivals}  # never the group itself
    scores = torch.randn(6, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    mask = torch.tensor([other in rivals for other in range(5)])
    margin, leader = margins(scores, column, mask)
    for row, values in enumerate(scores.tolist()):
        best = max(rivals, key=lambda other: values[other])
        assert margin[row] == pytest.approx(values[column] - values[best])
        assert leader[row] == (column if values[column] > values[best] else best)


def test_a_group_that_ties_does_not_lead() -> None:
    margin, _ = margins(torch.tensor([[1.0, 1.0, 3.0]]), 0, torch.tensor([False, True, False]))
    assert margin.tolist() == [0.0]


@given(st.integers(1, 300), st.data())
def test_the_interval_of_a_share_is_wilsons(of: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, of))
    expected = binomtest(count, of).proportion_ci(0.95, method="wilson")
    assert share_interval(count, of) == pytest.approx((expected.low, expected.high), abs=1e-12)
