"""Rises of losses against loops, and the error of a total against every sample that could be drawn."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from guda_lightning.functional.rises import group_total, rise, skewed_rise
from guda_lightning.functional.schedule import NoiseSchedule
from guda_lightning.functional.timesteps import TimestepPlan

LOSSES = st.lists(st.tuples(st.floats(0, 1e3), st.floats(0, 1e3)), min_size=1, max_size=6)


@given(LOSSES)
def test_rises_are_those_of_loops(pairs: list[tuple[float, float]]) -> None:
    before, after = torch.tensor(pairs, dtype=torch.float64).T
    plain = [one - other for other, one in pairs]
    skewed = [(one - other) / (one + other + 1e-3) for other, one in pairs]
    assert rise(before, after).tolist() == pytest.approx(plain, rel=1e-12)
    assert skewed_rise(before, after).tolist() == pytest.approx(skewed, rel=1e-12)
    assert all(-1 < value < 1 for value in skewed)


def test_the_draw_of_members_is_unbiased_and_so_is_its_variance() -> None:
    values = torch.tensor([3.0, -1.0, 4.0, 1.0, 9.0, 2.5], dtype=torch.float64)
    subsets = [list(rows) for rows in combinations(range(6), 3)]
    terms = torch.stack([values[rows] for rows in subsets])[:, :, None, None].expand(-1, -1, 2, 2) / 2
    total, error = group_total(terms, 6, shared=False)
    assert total.mean() == pytest.approx(float(values.sum()))
    assert error.square().mean() == pytest.approx(float(total.var(correction=0)))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("size", [4, 12])
def test_the_error_covers_noise_and_members(shared: bool, size: int) -> None:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    times, drawn = 20_000, 4
    worth = torch.linspace(-1, 2, size, dtype=torch.float64)
    rows = torch.rand(times, size, generator=generator).argsort(dim=1)[:, :drawn]
    noise = normal(times, 1 if shared else drawn, 3, 2) * torch.tensor([1.0, 0.5, 2.0])[:, None]
    total, error = group_total(worth[rows][:, :, None, None] / 3 + noise, size, shared)
    assert total.mean() == pytest.approx(float(worth.sum()), abs=5 * float(total.std()) / times**0.5)
    assert error.square().mean() == pytest.approx(float(total.var()), rel=0.05)


def test_an_even_plan_may_be_of_the_noisier_timesteps_alone() -> None:
    schedule = NoiseSchedule.from_alphas_cumprod(torch.linspace(0.99, 0.01, 41))
    whole, noisier = TimestepPlan.even(schedule, 3), TimestepPlan.even(schedule, 3, 2, noisier=0.7)
    assert whole.timesteps == tuple(range(1, 41))
    assert noisier.timesteps == tuple(range(13, 41))
    assert (noisier.num_strata, noisier.draws, noisier.shares.tolist()) == (3, 2, [9 / 28, 9 / 28, 10 / 28])
    assert noisier.evaluation_shares.tolist() == [9 / 56] * 4 + [10 / 56] * 2
