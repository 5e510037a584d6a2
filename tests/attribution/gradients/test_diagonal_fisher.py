"""The diagonal Fisher information against a closed form."""

from __future__ import annotations

import pytest
import torch
from linear_denoiser import linear_model, loss_gradients

from guda_lightning.attribution.gradients.diagonal import fit_diagonal
from guda_lightning.attribution.gradients.flat import FlatModel
from guda_lightning.attribution.scoring import noised_by_plan
from guda_lightning.errors import ConfigError
from guda_lightning.functional.timesteps import TimestepPlan
from guda_lightning.types import Queries
from toys import message


def test_the_diagonal_is_the_mean_of_squared_gradients() -> None:
    model = linear_model(4)
    samples = Queries(("a", "b", "c"), torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(0)))
    plan = TimestepPlan.even(model.schedule, 3, 2)
    whole, parts = (list(noised_by_plan(samples, plan, 0, size, model.schedule, "cpu")) for size in (18, 4))
    found = fit_diagonal(FlatModel(model), parts, damping=0.5)
    expected = loss_gradients(model.denoiser.weight.detach(), whole[0]).square().mean(dim=0)
    torch.testing.assert_close(found.fisher, expected, rtol=1e-5, atol=1e-7)
    rows = torch.randn(2, 20, generator=torch.Generator().manual_seed(1))
    solved = rows / (expected + 0.5 * expected.mean())
    torch.testing.assert_close(found.solve(rows), solved, rtol=1e-5, atol=1e-7)


def test_nothing_has_no_fisher_information() -> None:
    expected = message(
        "there is nothing to estimate the Fisher information from",
        "0 noised training samples",
        "at least one",
        "pass batches of noised_by_plan",
    )
    with pytest.raises(ConfigError, match=expected):
        fit_diagonal(FlatModel(linear_model(4)), [], damping=1.0)
