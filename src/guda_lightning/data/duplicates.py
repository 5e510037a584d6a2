"""Near-duplicates across groups: pictures whose copy stays when their group is removed.

A counterfactual without a group still knows a picture of which another group holds a copy, and so does the
oracle: for queries like that picture it looks as if neither group had contributed much.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from guda_lightning.data.grouping import Grouping
from guda_lightning.errors import ConfigError, check_range
from guda_lightning.functional.distances import squared_distances

_CHUNK = 512  # images, or pairs of them, at a time: 13 MB at 32 x 32 in colour
_SAMPLE = 256  # images whose nearest neighbour is looked up in full: the median is then known to about 5 %
_COARSE = 8  # blocks along each side of the coarse images


@dataclass(frozen=True)
class NearDuplicate:
    """Two training images that are nearly the same picture.

    Attributes:
        first: Index of one sample.
        second: Index of the other, larger than ``first``.
        groups_first: Groups of the first; empty where it is in none.
        groups_second: Groups of the second; not both are empty.
        distance: Root mean square of the difference between pixels in [-1, 1].
    """

    first: int
    second: int
    groups_first: tuple[str, ...]
    groups_second: tuple[str, ...]
    distance: float


def near_duplicates(
    images: Tensor, grouping: Grouping, within: float = 0.25, *, sharing: bool = False
) -> list[NearDuplicate]:
    """Find pairs of nearly equal images that share no group; one of them may be in no group at all.

    Nearly equal is relative to the data: at most ``within`` times the median distance from an image to the
    nearest other one, which is measured on 256 images drawn at random (always the same ones). In CIFAR-10, a
    copy saved as JPEG of quality 85 lies at .06 of that median and one resized to 24 x 24 pixels and back at
    .17, while different birds in a plain sky begin at .31; digits of different classes begin at 1.17. Pixels
    are compared place by place: shifted, mirrored or recoloured copies are not found. Where most images have
    an equal twin the median is 0, and only equal images are found.

    Distances are exact: sums of whole numbers. A pair is compared in full only where the sums over blocks of
    its pixels do not differ too much already, since ``(Σ d)² / n ≤ Σ d²`` over a block of n.

    Args:
        images: ``[samples, channels, height, width]`` uint8.
        grouping: Who belongs to which groups.
        within: Share of the median distance, positive.
        sharing: Whether to find pairs that share a group instead.

    Returns:
        The pairs, nearest first.

    Raises:
        ConfigError: Images and groups do not fit, or ``within`` is not positive.
    """
    if images.dim() != 4 or images.dtype != torch.uint8 or len(images) != grouping.num_samples:
        raise ConfigError(
            "the images do not fit the groups",
            found=f"{images.dtype} of shape {tuple(images.shape)}",
            expected=f"torch.uint8 of shape ({grouping.num_samples}, channels, height, width)",
            fix="take both from one GroupDataModule",
        )
    check_range("within", within, gt=0, lt=math.inf, fix="take 0.25")
    if len(images) < 2:
        return []
    pixels = images.flatten(1)
    limit = within**2 * _median_nearest(pixels)
    membership = torch.from_numpy(grouping.membership())
    found: list[tuple[float, int, int]] = []
    for first, second in _candidates(images, limit):
        shared = (membership[first] & membership[second]).any(dim=1)
        grouped = (membership[first] | membership[second]).any(dim=1)
        chosen = shared if sharing else grouped & ~shared
        first, second = first[chosen], second[chosen]
        squared = (pixels[first].double() - pixels[second].double()).square().sum(dim=1)
        near = squared <= limit
        found += zip(squared[near].tolist(), first[near].tolist(), second[near].tolist(), strict=True)
    names = np.array(grouping.names, dtype=object)
    return [
        NearDuplicate(
            first,
            second,
            tuple(names[membership[first].numpy()]),
            tuple(names[membership[second].numpy()]),
            math.sqrt(squared / pixels.shape[1]) / 127.5,
        )
        for squared, first, second in sorted(found)
    ]


def _median_nearest(pixels: Tensor) -> float:
    """Median squared distance from an image to the nearest other one: of ``[samples, dims]`` bytes."""
    rows = torch.from_numpy(np.random.default_rng(0).permutation(len(pixels))[:_SAMPLE])
    images = pixels[rows].double()
    nearest = torch.full((len(rows),), math.inf, dtype=torch.float64)
    for start in range(0, len(pixels), _CHUNK):
        squared = squared_distances(images, pixels[start : start + _CHUNK].double())
        squared[rows[:, None] == torch.arange(start, start + squared.shape[1])] = math.inf  # itself
        nearest = torch.minimum(nearest, squared.amin(dim=1))
    return float(nearest.median())


def _candidates(images: Tensor, limit: float) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield all pairs with a squared distance of at most ``limit``, and others, a few at a time.

    They are found by the sums over blocks of n pixels each; rows and columns that fill no block are left out.
    """
    block = max(1, images.shape[2] // _COARSE), max(1, images.shape[3] // _COARSE)
    parts = _block_sums(images, block).split(_CHUNK)
    for row, first in enumerate(parts):
        for column, second in enumerate(parts[row:], start=row):
            near = squared_distances(first, second) <= limit * math.prod(block)
            if row == column:
                near = near.triu(1)
            for pairs in near.nonzero().split(_CHUNK):
                yield pairs[:, 0] + row * _CHUNK, pairs[:, 1] + column * _CHUNK


def _block_sums(images: Tensor, block: tuple[int, int]) -> Tensor:
    """``[samples, channels, height, width]`` bytes -> ``[samples, dims]`` float64."""
    high, wide = images.shape[2] // block[0], images.shape[3] // block[1]
    whole = images[:, :, : high * block[0], : wide * block[1]]
    blocks = whole.unflatten(3, (wide, block[1])).unflatten(2, (high, block[0])).numpy()
    # NumPy casts piece by piece, where torch would hold all images as float64.
    return torch.from_numpy(blocks.sum(axis=(3, 5), dtype=np.float64)).flatten(1)
