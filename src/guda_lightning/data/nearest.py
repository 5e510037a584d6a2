"""The training images of a group that look most like a query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from guda_lightning.data.datamodule import GroupDataModule
from guda_lightning.data.grouping import Indices
from guda_lightning.data.images import to_unit
from guda_lightning.errors import DataError, check_range
from guda_lightning.functional.distances import squared_distances

_SIDE = 32  # pixels that pictures are averaged down to before they are compared
_CHUNK = 512  # training images at a time: 13 MB at 32 x 32 in colour


@dataclass(frozen=True, eq=False)
class Nearest:
    """Some training images, the one nearest to a query first.

    Attributes:
        ids: Their names.
        images: ``[n, channels, height, width]`` uint8, whole.
        distances: ``[n]`` float64 in [0, 4], the mean squared difference of pixels in [-1, 1] from the query,
            of pictures of at most 32 x 32 pixels.
    """

    ids: tuple[str, ...]
    images: Tensor
    distances: Tensor


def nearest_samples(
    data: GroupDataModule, rows: Indices | Sequence[int], images: Tensor, count: int
) -> list[Nearest]:
    """Find the training images that look most like each query, pixel by pixel.

    Likeness is no influence: a model may owe a query to images that look unlike it. Pictures are compared
    place by place, so shifted, mirrored or recoloured copies are not found.

    Args:
        data: The training data. Its images are read in small parts.
        rows: Which of them to compare with, such as those of one group; at least one.
        images: ``[queries, channels, height, width]`` in [-1, 1], of the shape of the training images.
        count: How many to return of each query, at least 1; fewer where there are fewer.

    Returns:
        One for each query; of images at the same distance the earlier first.

    Raises:
        ConfigError: ``count`` is below 1.
        DataError: There is nothing to compare with, or the queries have another shape.
    """
    check_range("count", count, ge=1, fix="take 3")
    rows = np.asarray(rows, dtype=np.int64)
    if not len(rows) or images.shape[1:] != data.image_shape:
        raise DataError(
            "these queries cannot be compared with training images",
            found=f"{len(rows)} training images, queries of shape {tuple(images.shape[1:])}",
            expected=f"at least one, and queries of shape {tuple(data.image_shape)}",
            fix="name samples of the data, and take queries as guda attribute reads them",
        )
    queries = _small(images)
    best = torch.empty(len(images), 0, dtype=torch.float64)
    who = torch.empty(len(images), 0, dtype=torch.int64)
    for start in range(0, len(rows), _CHUNK):
        part = rows[start : start + _CHUNK]
        found = squared_distances(queries, _small(to_unit(data.pixels(part)))).clamp(min=0)
        best = torch.cat([best, found / queries.shape[1]], dim=1)
        who = torch.cat([who, torch.from_numpy(part).expand(len(images), -1)], dim=1)
        best, order = best.sort(dim=1, stable=True)
        best, who = best[:, :count], who.gather(1, order[:, :count])
    ids, needed = data.ids, np.unique(who.numpy())
    pixels, place = data.pixels(needed), np.searchsorted(needed, who.numpy())
    return [
        Nearest(tuple(ids[row] for row in of_one), pixels[places], distances)
        for of_one, places, distances in zip(who.tolist(), place, best, strict=True)
    ]


def _small(images: Tensor) -> Tensor:
    """``[images, channels, height, width]`` -> ``[images, dims]`` float64 of at most 32 x 32 pixels each."""
    height, width = (min(_SIDE, side) for side in images.shape[2:])
    return adaptive_avg_pool2d(images.float(), (height, width)).double().flatten(1)
