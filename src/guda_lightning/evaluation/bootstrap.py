"""Intervals and paired comparisons from common resamples of queries and oracle seeds."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from guda_lightning.errors import check_range

_CHUNK = 2**22  # counts held at once: 32 MiB of float64


def resampled_means(values: Tensor, resamples: int, seed: int) -> Tensor:
    """Mean of the values over queries and oracle seeds that are drawn with replacement.

    Queries and oracle seeds are drawn independently, as many as there are (Owen 2007, "The pigeonhole
    bootstrap"). Which queries a resample draws depends on ``seed`` and their number only: the results of
    several calls are paired.

    Args:
        values: ``[queries, oracle seeds, ...]``; a single oracle seed stands for itself in every resample.
        resamples: How many.
        seed: Seed of the draws.

    Returns:
        ``[resamples, ...]`` float64.
    """
    queries, seeds, *shape = values.shape
    flat = values.double().reshape(queries, -1)
    of_queries, of_seeds = (np.random.default_rng((seed, stream)) for stream in (0, 1))
    means = []
    size = max(1, _CHUNK // queries)
    for start in range(0, resamples, size):
        count = min(size, resamples - start)
        sums = (resample_counts(of_queries, count, queries) @ flat).reshape(count, seeds, -1)
        means.append(
            (resample_counts(of_seeds, count, seeds)[:, :, None] * sums).sum(dim=1) / (queries * seeds)
        )
    return torch.cat(means).reshape(resamples, *shape)


def resample_counts(random: np.random.Generator, resamples: int, items: int) -> Tensor:
    """How often each resample drew each item: ``[resamples, items]`` float64."""
    drawn = random.integers(items, size=(resamples, items)) + np.arange(0, resamples * items, items)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=resamples * items)
    return torch.from_numpy(counts.reshape(resamples, items)).double()


def interval(resampled: Tensor, level: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Low and high end of the percentile interval of ``[resamples, ...]``, leaving out NaN."""
    tail = (1 - level) / 2
    quantile = np.nanquantile if resampled.isnan().any() else np.quantile  # the latter is much faster
    low, high = quantile(resampled.numpy(), (tail, 1 - tail), axis=0)
    return low, high


def share_above_zero(resampled: Tensor) -> Tensor:
    """Share of ``[resamples, ...]`` above zero and half of those that are zero, to within rounding."""
    return (1 + resampled.round(decimals=12).sign()).mean(dim=0) / 2


def check_resampling(resamples: int, level: float, seed: int) -> None:
    """Refuse options that make no interval.

    Raises:
        ConfigError: An option is out of range.
    """
    check_range("resamples", resamples, ge=1, fix="take the usual 2000")
    check_range("level", level, gt=0, lt=1, fix="take the usual 0.95")
    check_range("seed", seed, ge=0, fix="take the usual 0")
