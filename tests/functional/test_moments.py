from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from guda_lightning.functional.moments import Moments


def one_by_one(values: torch.Tensor, g: np.random.Generator) -> Moments:
    moments = Moments.zeros(*values.shape[1:])
    for row in values:
        moments = moments.add(row)
    return moments


def in_parts(values: torch.Tensor, g: np.random.Generator) -> Moments:
    cuts = [0, *sorted(g.integers(0, len(values) + 1, size=2).tolist()), len(values)]
    moments = Moments.zeros(*values.shape[1:])
    for start, stop in pairwise(cuts):
        moments = moments.merge(Moments.of(values[start:stop]))
    return moments


@settings(deadline=None)  # the machine may be busy
@pytest.mark.parametrize("collect", [one_by_one, in_parts])
@given(st.integers(1, 8), st.integers(0, 2**32 - 1), st.sampled_from([0.0, 1e6]))
def test_moments_are_those_of_numpy(collect, number: int, seed: int, offset: float) -> None:
    g = np.random.default_rng(seed)
    values = g.normal(size=(number, 3, 4)) + offset
    values[g.random(values.shape) < 0.3] = np.nan
    rounding = 1e-13 * offset + 1e-12  # Σx² − (Σx)²/n would be off by 1e-3
    moments = collect(torch.from_numpy(values), g)
    for entry in np.ndindex(3, 4):
        there = values[(slice(None), *entry)]
        there = there[~np.isnan(there)]
        assert moments.count[entry] == len(there)
        assert moments.mean[entry].item() == pytest.approx(there.mean() if len(there) else 0, rel=1e-12)
        scatter = np.square(there - there.mean()).sum() if len(there) else 0
        assert moments.scatter[entry].item() == pytest.approx(scatter, rel=1e-9, abs=rounding)
        if len(there) > 1:
            expected = scipy.stats.sem(there)
            assert moments.stderr[entry].item() == pytest.approx(expected, rel=1e-9, abs=rounding)
        else:
            assert moments.stderr[entry].isnan()


def test_equal_numbers_have_no_scatter() -> None:
    moments = Moments.zeros(1)
    for _ in range(5):
        moments = moments.add(torch.tensor([0.1], dtype=torch.float64))
    assert moments.scatter.item() == 0
