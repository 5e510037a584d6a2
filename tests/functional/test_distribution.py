"""Differences of laws of training against scipy, Gaussians, and a ridge regression whose law is known."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import wasserstein_distance
from torch import Tensor

from guda_lightning.errors import ConfigError, NumericsError
from guda_lightning.functional.distribution import (
    DELTAS,
    degrees,
    difference,
    halves,
    is_known,
    jackknife,
    mean_difference,
    variance_difference,
    wasserstein,
)
from toys import message

NUMBERS = st.floats(-100, 100, width=32)
SAMPLES = st.integers(1, 5).flatmap(lambda count: arrays(np.float64, (count,), elements=NUMBERS))
Law = tuple[Tensor, Tensor]


def normal(count: int, seed: int) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(st.integers(1, 5).flatmap(lambda n: arrays(np.float64, (2, n), elements=NUMBERS)))
def test_sorted_differences_are_the_cheapest_transport(sides: np.ndarray) -> None:
    """By brute force over all ways to move one sample onto the other."""
    x, y = sides
    cheapest = min(np.mean((x - y[list(order)]) ** 2) for order in itertools.permutations(range(len(y))))
    assert wasserstein(torch.from_numpy(x), torch.from_numpy(y)).item() == pytest.approx(
        math.sqrt(cheapest), abs=1e-9
    )


@given(SAMPLES, SAMPLES)
def test_sides_of_other_sizes_are_compared_by_their_quantiles(x: np.ndarray, y: np.ndarray) -> None:
    found = wasserstein(torch.from_numpy(x), torch.from_numpy(y)).item()
    points = (np.arange(60) + 0.5) / 60  # 60 is a multiple of 1 to 5: one point in each step of both
    steps = [np.sort(side)[(points * len(side)).astype(int)] for side in (x, y)]
    assert found == pytest.approx(np.sqrt(np.mean((steps[0] - steps[1]) ** 2)), abs=1e-9)
    assert found >= wasserstein_distance(x, y) - 1e-9  # W1 <= W2


@given(SAMPLES, st.floats(-50, 50, width=32))
def test_a_shift_of_paired_trainings_is_its_distance(x: np.ndarray, shift: float) -> None:
    side = torch.from_numpy(x)
    assert wasserstein(side, side + shift).item() == pytest.approx(abs(shift), abs=1e-9)
    assert mean_difference(side, side - shift).item() == pytest.approx(shift, abs=1e-9)


def test_gaussians_are_as_far_as_their_means_and_deviations() -> None:
    """In the limit of quantiles: W2² = (μ1 − μ2)² + (σ1 − σ2)²."""
    probabilities = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    quantiles = torch.special.ndtri(probabilities)
    full, without = 1 + 2 * quantiles, -0.5 + 3 * quantiles
    assert wasserstein(full, without).square().item() == pytest.approx(1.5**2 + 1, rel=1e-4)
    assert mean_difference(full, without).item() == pytest.approx(1.5)
    assert variance_difference(full, without).item() == pytest.approx(9 - 4, rel=1e-3)


def test_the_error_of_a_mean_is_the_textbooks() -> None:
    x, y, z = normal(7, 1), normal(7, 2), normal(4, 3)
    paired = jackknife(mean_difference, x, y, paired=True)
    assert paired.item() == pytest.approx(((x - y).std() / math.sqrt(7)).item())
    apart = jackknife(mean_difference, x, z, paired=False)
    assert apart.item() == pytest.approx((x.var() / 7 + z.var() / 4).sqrt().item())
    assert degrees(7, 4) == 3
    assert jackknife(mean_difference, x[:1], z, paired=False).isnan()
    assert jackknife(mean_difference, x[:1], y[:1], paired=True).isnan()


def test_every_query_is_compared_by_itself() -> None:
    full, without = normal(12, 4).reshape(4, 3), normal(15, 5).reshape(5, 3)
    for name, delta in DELTAS.items():
        found = difference(name, full, without)
        errors = jackknife(delta, full, without, paired=False)
        for query in range(3):
            sides = full[:, query], without[:, query]
            assert found[query].item() == pytest.approx(difference(name, *sides).item())
            assert errors[query].item() == pytest.approx(jackknife(delta, *sides, paired=False).item())


class Ridge:
    """Ridge regression by gradient descent that stops early, from Gaussian weights: θ_T is Gaussian.

    θ_T = M θ_0 + (I − M) A⁻¹ Zᵀt with A = ZᵀZ + λI and M = (I − ηA)^T.
    """

    steps, rate, penalty = 12, 0.02, 0.3

    def __init__(self, inputs: Tensor, targets: Tensor) -> None:
        self.curvature = inputs.T @ inputs + self.penalty * torch.eye(inputs.shape[1], dtype=torch.float64)
        self.slope = inputs.T @ targets

    def trained(self, seeds: int, seed: int) -> Tensor:
        """Weights after training from so many random starts."""
        weights = normal(seeds * len(self.slope), seed).reshape(seeds, -1)
        for _ in range(self.steps):
            weights = weights - self.rate * (weights @ self.curvature - self.slope)
        return weights

    def law(self, query: Tensor) -> tuple[float, float]:
        """Mean and standard deviation of the prediction."""
        unit = torch.eye(len(self.slope), dtype=torch.float64)
        kept = torch.linalg.matrix_power(unit - self.rate * self.curvature, self.steps)
        mean = query @ (unit - kept) @ torch.linalg.solve(self.curvature, self.slope)
        return mean.item(), (kept @ query).norm().item()


@pytest.mark.parametrize("paired", [True, False])
def test_the_law_of_a_ridge_regression_is_found(paired: bool) -> None:
    inputs = normal(60, 6).reshape(20, 3)
    targets, query = inputs @ torch.tensor([1.0, -2.0, 0.5]).double() + normal(20, 7), normal(3, 8)
    full, without = Ridge(inputs, targets), Ridge(inputs[8:], targets[8:])
    samples = full.trained(600, 9) @ query, without.trained(600, 9 if paired else 10) @ query
    (mean, deviation), (other_mean, other_deviation) = full.law(query), without.law(query)
    truth = {
        "mean": mean - other_mean,
        "variance": other_deviation**2 - deviation**2,
        "wasserstein": math.hypot(mean - other_mean, deviation - other_deviation),
    }
    assert truth["variance"] > 0.1 and truth["mean"] != 0  # the group makes training stable
    for name, true in truth.items():
        error = jackknife(DELTAS[name], *samples, paired=paired).item()
        assert abs(difference(name, *samples).item() - true) < 3.5 * error
        assert error < 0.2 * truth["wasserstein"]


def test_the_error_of_a_variance_is_that_of_repetitions() -> None:
    inputs = normal(60, 6).reshape(20, 3)
    targets, query = inputs.sum(dim=1), normal(3, 8)
    full, without = Ridge(inputs, targets), Ridge(inputs[8:], targets[8:])
    found, errors = [], []
    for seed in range(200):
        sides = full.trained(10, seed) @ query, without.trained(10, 1000 + seed) @ query
        found.append(difference("variance", *sides))
        errors.append(jackknife(variance_difference, *sides, paired=False))
    assert torch.stack(errors).square().mean().sqrt() == pytest.approx(torch.stack(found).std(), rel=0.25)
    assert torch.stack(found).mean() == pytest.approx(
        without.law(query)[1] ** 2 - full.law(query)[1] ** 2, rel=0.1
    )


def test_two_halves_of_one_law_say_what_chance_does() -> None:
    """The distance of two samples of one law is above zero, and halves show by how much."""
    laws = normal(6 * 400, 11).reshape(6, 400)
    apart = wasserstein(normal(3 * 400, 12).reshape(3, 400), normal(3 * 400, 13).reshape(3, 400))
    assert halves(laws).mean().item() == pytest.approx(apart.mean().item(), rel=0.1)
    assert (halves(laws) > 0).all()


# refused


def test_too_few_trainings_are_refused() -> None:
    assert [is_known(name, 3, 3) for name in DELTAS] == [True] * 3
    assert [is_known(name, 2, 3) for name in DELTAS] == [True, False, False]
    for name in ("variance", "wasserstein"):
        expected = message(
            f"the {name} of a law needs more trainings",
            "2 with the group, 5 without",
            "at least 3 of each",
            "train and score more seeds",
        )
        with pytest.raises(ConfigError, match=expected):
            difference(name, normal(2, 0), normal(5, 1))
    with pytest.raises(ConfigError, match=r"^the wasserstein of a law needs more trainings"):
        halves(normal(5, 0))


def test_other_names_and_numbers_are_refused() -> None:
    expected = message(
        "there is no such difference of laws", "median", "mean, variance, wasserstein", "choose one of them"
    )
    with pytest.raises(ConfigError, match=expected):
        difference("median", normal(3, 0), normal(3, 1))
    bad = torch.tensor([[1.0], [float("nan")], [2.0]])
    with pytest.raises(NumericsError, match=r"^log-likelihoods with the group"):
        difference("mean", bad, bad.nan_to_num())
