from __future__ import annotations

import torch
from torch import Tensor

from guda_lightning.functional.heads import fit_rows

MEANS = torch.tensor([[0.0, 0, 0], [1.5, 0, 0.5], [0, -1, 1], [1, 1, -1]], dtype=torch.float64)
PRIOR = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
COVARIANCE = torch.tensor([[1.0, 0.3, 0], [0.3, 0.8, 0.2], [0, 0.2, 0.5]], dtype=torch.float64)


def gaussians(seed: int, number: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(len(MEANS), number, 3, generator=generator, dtype=torch.float64)
    features = MEANS[:, None] + drawn @ torch.linalg.cholesky(COVARIANCE).T
    return features.flatten(0, 1), torch.arange(len(MEANS)).repeat_interleave(number)


def bayes(classes: int) -> tuple[Tensor, Tensor]:
    """Rows of linear discriminant analysis: ``Σ⁻¹ μ`` and ``log π − μᵀ Σ⁻¹ μ / 2``."""
    weight = torch.linalg.solve(COVARIANCE, MEANS[:classes].T).T
    return weight, PRIOR[:classes].log() - (weight * MEANS[:classes]).sum(dim=1) / 2


def test_rows_are_those_of_bayes_where_features_are_gaussian() -> None:
    features, classes = gaussians(0, 20_000)
    none, importance = torch.zeros(0, 3), PRIOR[classes]
    weight, bias = fit_rows(none, none[:, 0], 4, features, classes, importance, ridge=1e-7)
    fresh, _ = gaussians(1, 500)
    expected = torch.nn.functional.linear(fresh, *bayes(4)).softmax(dim=1)
    found = torch.nn.functional.linear(fresh, weight, bias).softmax(dim=1)
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0)


def test_one_row_is_added_to_those_of_bayes() -> None:
    features, classes = gaussians(0, 20_000)
    kept = bayes(3)
    weight, bias = fit_rows(*kept, 1, features, classes, PRIOR[classes], ridge=1e-7)
    torch.testing.assert_close((weight[:3], bias[:3]), kept)
    expected = bayes(4)
    torch.testing.assert_close(weight, expected[0], atol=0.06, rtol=0)
    torch.testing.assert_close(bias, expected[1], atol=0.06, rtol=0)


def test_classes_that_never_meet_have_finite_rows() -> None:
    features = torch.tensor([[-1.0], [1.0]]).repeat(5, 1)
    weight, bias = fit_rows(
        torch.zeros(0, 1), torch.zeros(0), 2, features, torch.arange(2).repeat(5), torch.ones(10)
    )
    found = torch.nn.functional.linear(features.double(), weight, bias).softmax(dim=1)
    assert bool(weight.isfinite().all()) and float(weight.abs().max()) < 20
    assert float(found[0, 0]) > 0.99
