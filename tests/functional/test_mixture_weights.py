"""Importance weights of SISS, against the formula as printed and against integrals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from torch import Tensor

from guda_lightning.functional.mixture import mixture_weights


def sides(batch: int, dims: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """m noised from a for the even rows, from x for the odd ones, float64."""
    generator = torch.Generator().manual_seed(seed)
    x, a = (torch.rand(batch, dims, generator=generator, dtype=torch.float64) * 2 - 1 for _ in range(2))
    gamma = torch.rand(batch, 1, generator=generator, dtype=torch.float64)
    sigma = (1 - gamma.square()).sqrt()
    chosen = torch.where(torch.arange(batch)[:, None] % 2 == 0, a, x)
    return (
        gamma * chosen + sigma * torch.randn(batch, dims, generator=generator, dtype=torch.float64),
        x,
        a,
        gamma,
        sigma,
    )


@given(st.integers(0, 1000), st.floats(0, 1))
def test_weights_are_those_of_the_paper(seed: int, share: float) -> None:
    m, x, a, gamma, sigma = sides(6, 3, seed)
    d_x, d_a = ((m - gamma * one).square().sum(dim=1) / (2 * sigma.square().squeeze(1)) for one in (x, a))
    w_x, w_a = mixture_weights(m, x, a, gamma, sigma, share)
    torch.testing.assert_close(w_x, 1 / ((1 - share) + share * (d_x - d_a).exp()))
    torch.testing.assert_close(w_a, 1 / ((1 - share) * (d_a - d_x).exp() + share))
    torch.testing.assert_close((1 - share) * w_x + share * w_a, torch.ones_like(w_x))


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 1.0])
def test_nothing_overflows_in_high_dimensions(share: float) -> None:
    m, x, a, gamma, sigma = (part.float() for part in sides(64, 3072))
    naive = torch.exp(
        ((m - gamma * x).square().sum(1) - (m - gamma * a).square().sum(1)) / (2 * sigma**2).squeeze(1)
    )
    assert bool(naive.isinf().any())  # what the published code divides by
    assert bool((naive == 0).any())
    w_x, w_a = mixture_weights(m, x, a, gamma, sigma, share)
    if 0 < share < 1:
        assert bool(w_x.isfinite().all())
        assert bool(w_a.isfinite().all())
        torch.testing.assert_close((1 - share) * w_x + share * w_a, torch.ones(64))
        far = (gamma / sigma).squeeze(1) > 0.5  # noise has not made both alike
        torch.testing.assert_close(
            w_x[far][::1], torch.where(torch.arange(64)[far] % 2 == 0, 0.0, 1 / (1 - share))
        )
        torch.testing.assert_close(w_a[far], torch.where(torch.arange(64)[far] % 2 == 0, 1 / share, 0.0))


@pytest.mark.parametrize("share", [0.3, 0.5, 1.0, 0.0])
def test_weighted_samples_of_the_mixture_are_samples_of_either(share: float) -> None:
    # On the line: E_q[w_x f] = E[f | x] and E_q[w_a f] = E[f | a], by quadrature.
    x, a, gamma, sigma = 0.4, -0.3, 0.8, 0.6

    def density(m: float, clean: float) -> float:
        return math.exp(-((m - gamma * clean) ** 2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))

    def weights(m: float) -> tuple[float, float]:
        numbers = (torch.tensor([[value]], dtype=torch.float64) for value in (m, x, a, gamma, sigma))
        w_x, w_a = mixture_weights(*numbers, share)
        return float(w_x), float(w_a)

    for side, clean in enumerate((x, a)):
        for moment in (0, 1, 2):

            def weighted(m: float, side: int = side, moment: int = moment) -> float:
                mixture = (1 - share) * density(m, x) + share * density(m, a)
                return mixture * weights(m)[side] * m**moment

            expected = [1, gamma * clean, (gamma * clean) ** 2 + sigma**2][moment]
            np.testing.assert_allclose(quad(weighted, -6, 6)[0], expected, rtol=1e-6)


def test_at_the_ends_one_side_weighs_one() -> None:
    m, x, a, gamma, sigma = sides(8, 3)
    assert torch.equal(mixture_weights(m, x, a, gamma, sigma, 0.0)[0], torch.ones(8, dtype=torch.float64))
    assert torch.equal(mixture_weights(m, x, a, gamma, sigma, 1.0)[1], torch.ones(8, dtype=torch.float64))
