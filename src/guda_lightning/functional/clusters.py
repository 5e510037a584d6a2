"""Two clusters of vectors, by k-means."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from guda_lightning.functional.distances import squared_distances
from guda_lightning.functional.noise import query_key

_STARTS, _STEPS = 8, 100


def two_means(x: Tensor, seed: int, name: str) -> Tensor:
    """Split vectors into the two clusters of least squared distance to their means (Lloyd 1982).

    The best of eight starts, each with a random vector and one drawn by its squared distance to that (Arthur
    & Vassilvitskii 2007).

    Args:
        x: ``[samples, dims]``, at least two that differ; of fewer, all are one cluster.
        seed: Seed of the starts.
        name: What the vectors belong to; starts are a pure function of both.

    Returns:
        ``[samples]`` int64, 0 for the larger cluster (of equal ones that of the first vector), else 1.
    """
    values, best = x.double(), (torch.inf, torch.zeros(len(x), dtype=torch.int64))
    random = np.random.Generator(np.random.Philox(key=query_key(seed, name)))
    for _ in range(_STARTS if len(x) > 1 else 0):
        first = values[int(random.integers(len(x)))]
        far = (values - first).square().sum(dim=1)
        if not bool(far.any()):
            continue  # all are equal
        second = values[int(random.choice(len(x), p=(far / far.sum()).numpy()))]
        best = min(best, _lloyd(values, torch.stack([first, second])), key=lambda found: found[0])
    cluster = best[1]
    larger = int(cluster.sum()) * 2
    return 1 - cluster if larger > len(x) or (larger == len(x) and len(x) and int(cluster[0])) else cluster


def random_halves(cluster: Tensor, seed: int, name: str) -> Tensor:
    """Clusters of the same sizes, dealt at random: ``[samples]`` int64."""
    random = np.random.Generator(np.random.Philox(key=query_key(seed, name)))
    return cluster[torch.from_numpy(random.permutation(len(cluster)))]


def _lloyd(values: Tensor, centres: Tensor) -> tuple[float, Tensor]:
    """The sum of squared distances, and the nearer centre of each, once that no longer changes."""
    cluster = torch.full((len(values),), -1)
    for _ in range(_STEPS):
        squared = squared_distances(values, centres)
        nearer = squared.argmin(dim=1)
        if torch.equal(nearer, cluster):
            break
        cluster = nearer
        centres = torch.stack(
            [
                values[cluster == one].mean(dim=0) if bool((cluster == one).any()) else centres[one]
                for one in (0, 1)
            ]
        )
    return float(squared_distances(values, centres).gather(1, cluster[:, None]).sum()), cluster
