from __future__ import annotations

import torch
from scipy.spatial.distance import cdist

from guda_lightning.functional.distances import squared_distances


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
