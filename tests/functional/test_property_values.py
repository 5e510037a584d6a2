"""Values of groups for a global property, against brute force over orders and repetitions."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch
from torch import Tensor

from guda_lightning.errors import ConfigError, NumericsError
from guda_lightning.functional.coalition_plans import CoalitionPlan, all_coalitions, kernel
from guda_lightning.functional.coalitions import banzhaf, shapley_kernel
from guda_lightning.functional.set_properties import leave_one_out, mean_of_set, worth_of_groups
from toys import message

PLAYERS, IMAGES = 4, 30


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def properties(plan: CoalitionPlan, seed: int = 0, images: int = IMAGES) -> Tensor:
    """A property that depends on removed groups, on pairs of them, and on the image."""
    removed = plan.coalitions.double()
    effects = torch.tensor([0.5, -1.0, 2.0, 0.0], dtype=torch.float64)[: plan.players]
    together = removed[:, 0] * removed[:, 1]
    own = noise(seed, plan.players, images)
    return 3 - (removed @ effects + 0.7 * together)[:, None] + 0.3 * removed @ own + noise(seed + 1, images)


def test_leaving_one_out_is_a_paired_difference() -> None:
    values = noise(0, 3, 8)
    scores, errors = leave_one_out(values)
    for group in (1, 2):
        difference = values[0] - values[group]
        assert scores[group - 1].item() == pytest.approx(difference.mean().item())
        assert errors[group - 1].item() == pytest.approx(difference.std().item() / math.sqrt(8))
    expected = (values[0].mean().item(), values[0].std().item() / math.sqrt(8))
    assert mean_of_set(values[0]) == pytest.approx(expected)


def test_shapley_values_are_mean_losses_over_all_orders() -> None:
    plan = all_coalitions(PLAYERS)
    values = properties(plan)
    property_of = {
        tuple(row): mean for row, mean in zip(plan.coalitions.tolist(), values.mean(1).tolist(), strict=True)
    }
    expected = torch.zeros(PLAYERS, dtype=torch.float64)
    orders = list(permutations(range(PLAYERS)))
    for order in orders:
        out = [False] * PLAYERS
        for player in order:
            before = property_of[tuple(out)]
            out[player] = True
            expected[player] += (before - property_of[tuple(out)]) / len(orders)
    scores, errors = worth_of_groups(plan, values, shapley_kernel)
    torch.testing.assert_close(scores, expected)
    assert scores.sum().item() == pytest.approx((values[0] - values[-1]).mean().item())  # efficiency
    assert (errors > 0).all()


def test_a_draw_of_coalitions_sums_to_the_whole_and_adds_to_the_error() -> None:
    plan = kernel(6, 40, 0)
    removed = plan.coalitions.double()
    curved = (removed.sum(dim=1) ** 2)[:, None] + 0.1 * noise(0, len(removed), IMAGES)
    scores, errors = worth_of_groups(plan, curved, shapley_kernel)
    assert scores.sum().item() == pytest.approx((curved[0] - curved[-1]).mean().item())
    drawn = shapley_kernel(plan, (curved[:1] - curved).mean(dim=1, keepdim=True)).stderr[0]
    assert (drawn > 0).all() and (errors > drawn).all()


def test_the_error_over_images_is_that_of_repetitions() -> None:
    plan = all_coalitions(PLAYERS)
    for worth in (shapley_kernel, banzhaf):
        found = [worth_of_groups(plan, properties(plan, 10 * seed), worth) for seed in range(300)]
        scores, errors = (torch.stack(side) for side in zip(*found, strict=True))
        torch.testing.assert_close(errors.square().mean(dim=0).sqrt(), scores.std(dim=0), rtol=0.2, atol=0)


# refused


def test_one_image_is_refused() -> None:
    expected = message(
        "there are too few values of a property",
        "values of shape (3, 1)",
        "(1 + coalitions, images), and at least two images for a standard error",
        "draw more images",
    )
    with pytest.raises(ConfigError, match=expected):
        leave_one_out(noise(0, 3, 1))


def test_values_that_are_not_finite_are_refused() -> None:
    values = noise(0, 3, 4)
    values[1, 2] = torch.nan
    with pytest.raises(NumericsError, match=r"^properties of images"):
        leave_one_out(values)
