from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from guda_lightning.functional.distances import counterfactual_radius, mean_distance, squared_distances


def test_distances_are_those_of_scipy() -> None:
    generator = torch.Generator().manual_seed(0)
    x, items = (torch.randn(n, 7, generator=generator, dtype=torch.float64) for n in (5, 3))
    gamma = torch.rand(5, 1, generator=generator, dtype=torch.float64)
    expected = torch.from_numpy(cdist(x.numpy(), items.numpy(), "sqeuclidean"))
    torch.testing.assert_close(squared_distances(x, items), expected)
    scaled = torch.stack([(x - gamma * item).square().sum(dim=1) for item in items], dim=1)
    torch.testing.assert_close(squared_distances(x, items, gamma), scaled)


def test_distances_of_whole_numbers_are_exact() -> None:
    generator = torch.Generator().manual_seed(1)
    x, items = (torch.randint(256, (n, 3072), generator=generator).double() for n in (4, 6))
    expected = (x.long()[:, None] - items.long()).square().sum(dim=2)
    assert torch.equal(squared_distances(x, items).long(), expected)


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 4))
def test_the_radius_is_the_largest_distance_of_numpy(seed: int, queries: int, groups: int) -> None:
    random = np.random.default_rng(seed)
    full = random.uniform(-1, 1, (queries, 1, 3, 3))
    without = random.uniform(-1, 1, (groups, queries, 1, 3, 3))
    distances = torch.stack(
        [mean_distance(torch.from_numpy(full), torch.from_numpy(one)) for one in without], dim=1
    )
    radii, movers = counterfactual_radius(distances)
    for query in range(queries):
        expected = [np.linalg.norm(full[query] - one[query]) / 3 for one in without]
        assert float(radii[query]) == pytest.approx(max(expected))
        assert int(movers[query]) == int(np.argmax(expected))
