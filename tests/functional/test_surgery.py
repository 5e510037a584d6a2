"""Factors of two gradients, against vectors."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from guda_lightning.functional.surgery import constrained_factor, relative_factor

vectors = arrays(np.float64, 4, elements=st.floats(-10, 10).map(lambda number: round(number, 3)))


@given(vectors, vectors, st.floats(0, 3))
def test_the_constraint_holds_at_the_least_cost(
    g_m: NDArray[np.float64], g_a: NDArray[np.float64], eta: float
) -> None:
    m, a = torch.from_numpy(g_m), torch.from_numpy(g_a)
    factor = constrained_factor(m @ a, a @ a, eta)
    inner, wanted = float((m + factor * a) @ a), eta * float(a @ a)
    assert factor >= 0
    assert inner >= wanted - 1e-9 * (1 + abs(wanted))
    if factor > 0:  # active: no more than it takes
        np.testing.assert_allclose(inner, wanted, rtol=1e-9, atol=1e-9)


@given(vectors, vectors, st.floats(0, 3))
def test_the_ascent_is_as_long_as_a_share_of_the_descent(
    g_m: NDArray[np.float64], g_a: NDArray[np.float64], strength: float
) -> None:
    m, a = torch.from_numpy(g_m), torch.from_numpy(g_a)
    ascent = relative_factor(m @ m, a @ a, strength) * a
    expected = strength * np.linalg.norm(g_m) if g_a.any() else 0.0
    np.testing.assert_allclose(float(ascent.norm()), expected, rtol=1e-9, atol=1e-12)
    assert float(ascent @ a) <= 0


def test_scaling_both_losses_changes_no_factor() -> None:
    inner, m, a = torch.tensor([-0.3, 2.0, 0.7]).unbind()
    for scale in (1e-6, 1e6):
        assert torch.isclose(
            constrained_factor(scale * inner, scale * a, 0.1), constrained_factor(inner, a, 0.1)
        )
        assert torch.isclose(relative_factor(scale * m, scale * a, 0.1), relative_factor(m, a, 0.1))
