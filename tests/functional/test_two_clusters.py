from __future__ import annotations

from itertools import product

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from guda_lightning.functional.clusters import random_halves, two_means


def spread(x: Tensor, cluster: Tensor) -> float:
    parts = [x[cluster == one] for one in (0, 1)]
    return sum(float((part - part.mean(dim=0)).square().sum()) for part in parts if len(part))


@given(seed=st.integers(0, 999), samples=st.integers(2, 8))
def test_clusters_are_those_of_brute_force_where_they_lie_apart(seed: int, samples: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, 3, generator=generator, dtype=torch.float64)
    x[: samples // 2] += 8
    found = two_means(x, seed, "group")
    every = (torch.tensor(choice) for choice in product((0, 1), repeat=samples))
    assert spread(x, found) <= min(spread(x, cluster) for cluster in every) + 1e-9


@given(seed=st.integers(0, 999), samples=st.integers(2, 30))
def test_every_vector_is_nearer_to_its_own_mean(seed: int, samples: int) -> None:
    x = torch.randn(samples, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = two_means(x, 0, "group")
    means = torch.stack([x[found == one].mean(dim=0) for one in (0, 1)])
    assert torch.equal(torch.cdist(x, means).argmin(dim=1), found)
    assert torch.equal(found, two_means(x, 0, "group"))
    assert int(found.sum()) * 2 <= samples


def test_what_cannot_be_split_is_one_cluster() -> None:
    assert two_means(torch.ones(5, 2), 0, "group").tolist() == [0] * 5
    assert two_means(torch.ones(1, 2), 0, "group").tolist() == [0]
    assert two_means(torch.ones(0, 2), 0, "group").tolist() == []


def test_random_halves_have_the_sizes_of_clusters() -> None:
    cluster = torch.tensor([0] * 70 + [1] * 30)
    dealt = random_halves(cluster, 0, "group")
    assert int(dealt.sum()) == 30 and not torch.equal(dealt, cluster)
    assert torch.equal(dealt, random_halves(cluster, 0, "group"))
    assert not torch.equal(dealt, random_halves(cluster, 0, "other"))
