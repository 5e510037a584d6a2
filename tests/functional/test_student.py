from __future__ import annotations

import pytest
import scipy.stats
import torch

from guda_lightning.functional.student import t_quantile, t_tail


@pytest.mark.parametrize("tail", [0.9, 0.3, 0.01, 1e-5, 1e-12])
def test_t_quantiles_are_those_of_scipy(tail: float) -> None:
    degrees = torch.tensor([1, 2, 3, 4, 9, 50, 1000])
    expected = torch.from_numpy(scipy.stats.t.isf(tail / 2, degrees.numpy()))
    torch.testing.assert_close(t_quantile(tail, degrees), expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("degrees", [1, 2, 3, 18, 18.4, 1000])
def test_t_tails_are_those_of_scipy(degrees: float) -> None:
    value = torch.tensor([[-torch.inf, -30.0, -2.0, 0.0], [1e-3, 1.7, 30.0, torch.inf]])
    expected = torch.from_numpy(scipy.stats.t.sf(value.double().numpy(), degrees))
    torch.testing.assert_close(
        t_tail(value, torch.tensor(degrees, dtype=torch.float64)), expected, rtol=1e-9, atol=1e-300
    )
