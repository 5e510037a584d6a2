"""Influences between stored features by brute force, one pair at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from guda_lightning.attribution.gradients.projected import ProjectedInfluence
from guda_lightning.errors import NumericsError
from guda_lightning.functional.elbo import standard_error
from guda_lightning.functional.influence import unit_rows
from toys import message

DIMS, COUNT, DAMPING = 6, 11, 0.3


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


FEATURES, ERRORS = drawn(0, COUNT, DIMS), drawn(1, COUNT).square()
MEMBERS = torch.arange(COUNT)[:, None] % torch.tensor([2, 3, 5]) == 0  # overlapping


def shards() -> Iterator[tuple[Tensor, Tensor]]:
    yield from zip(FEATURES.split(4), ERRORS.split(4), strict=True)


def brute(mean: Tensor, relative: bool, residual: bool, squared: bool) -> Tensor:
    """``[groups]`` of one query."""
    phi = FEATURES.double()
    curvature = phi.T @ phi / COUNT
    inverse = (curvature + DAMPING * torch.linalg.eigvalsh(curvature).mean() * torch.eye(DIMS)).inverse()
    scores = torch.zeros(MEMBERS.shape[1], dtype=torch.float64)
    for i in range(COUNT):
        influence = phi[i] @ inverse @ phi[i]
        one = mean @ inverse @ phi[i] / COUNT
        one = one / influence.sqrt() if relative else one
        one = one * ERRORS[i].sqrt() / (1 - influence / COUNT) if residual else one
        scores += MEMBERS[i] * (one.square() if squared else one)
    return scores


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("relative", [False, True])
def test_scores_are_those_of_pairs_one_by_one(relative: bool, residual: bool, squared: bool) -> None:
    found = ProjectedInfluence(shards, MEMBERS, DAMPING, relative, residual, squared)
    found.prepare()
    queries = drawn(2, 3, 4, DIMS)
    scores, terms = found(queries)
    expected = torch.stack(
        [brute(one, relative, residual, squared) for one in queries.double().sum(dim=1)], dim=1
    )
    torch.testing.assert_close(scores, expected, rtol=1e-6, atol=1e-12)
    assert terms.shape == (3, 3, 4)
    torch.testing.assert_close(terms.sum(dim=2), scores * (2 if squared else 1), rtol=1e-6, atol=1e-12)


def test_the_error_of_a_square_is_that_of_many_repetitions() -> None:
    """The delta method, where draws vary by a tenth of their mean."""
    found = ProjectedInfluence(shards, MEMBERS, DAMPING, squared=True)
    repeats, strata, draws = 600, 3, 4
    mean = drawn(3, 1, strata, 1, DIMS)
    queries = (mean + 0.3 * drawn(4, repeats, strata, draws, DIMS)) / (strata * draws)
    scores, terms = found(queries.flatten(1, 2))
    shaped = terms.unflatten(2, (strata, draws)) * draws
    errors = standard_error(shaped.flatten(0, 1)).view_as(scores)
    means = errors.square().mean(dim=1).sqrt()
    torch.testing.assert_close(means, scores.std(dim=1), rtol=0.12, atol=0)


def test_a_published_kernel_without_collisions() -> None:
    """TRAK's ``φ (ΦᵀΦ + λ')⁻¹ Φᵀ``, of sums in place of means: λ' = n · λ."""
    found = ProjectedInfluence(shards, torch.eye(COUNT, dtype=torch.bool), DAMPING)
    phi, query = FEATURES.double(), drawn(5, 2, 1, DIMS).double()
    gram = phi.T @ phi
    damped = gram + DAMPING * gram.trace() / DIMS * torch.eye(DIMS)
    torch.testing.assert_close(found(query)[0], phi @ torch.linalg.solve(damped, query[:, 0].T))


def test_weights_are_zero_where_there_is_no_gradient() -> None:
    def none() -> Iterator[tuple[Tensor, Tensor]]:
        yield torch.zeros(COUNT, DIMS), ERRORS

    found = ProjectedInfluence(none, MEMBERS, DAMPING, relative=True, residual=True)
    assert torch.equal(found(drawn(2, 1, 1, DIMS))[0], torch.zeros(3, 1, dtype=torch.float64))
    assert torch.equal(unit_rows(torch.zeros(1, 4)), torch.zeros(1, 4))


def test_what_is_no_number_is_refused() -> None:
    expected: Any = (
        "the gradients of the training samples hold what is no number",
        "nan",
        "finite gradients",
        "look for NaN in the model's weights or in the training data",
    )
    broken = ProjectedInfluence(lambda: iter([(FEATURES * torch.nan, ERRORS)]), MEMBERS, DAMPING)
    with pytest.raises(NumericsError, match=message(*expected)):
        broken.prepare()
