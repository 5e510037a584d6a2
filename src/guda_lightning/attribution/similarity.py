"""Similarity of pixels: the attributor that every other one has to beat, without any model."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

import numpy as np
import torch
from torch import Tensor

from guda_lightning.attribution.attributor import (
    AttributionContext,
    Attributor,
    FittedAttributor,
    refuse_no_queries,
    refuse_unlike,
    training_data,
)
from guda_lightning.data import GroupDataModule, query_hash
from guda_lightning.data.grouping import Grouping
from guda_lightning.data.images import from_unit
from guda_lightning.errors import ConfigError
from guda_lightning.scores import ScoreRecord, ScoreTable
from guda_lightning.scores.kinds import Similarity
from guda_lightning.types import Queries

_CHUNK = 1024  # training images at a time: 25 MB at 32 x 32 in colour


@dataclass(frozen=True)
class PixelSimilarity(Attributor):
    """Mean cosine of a query with the most similar training images of each group.

    Pixels are compared as the model sees them, flattened and in [-1, 1], not centred: on held-out digits and
    CIFAR-10 images their own class leads as often as with pixels centred by the training mean, or more often.
    An image that training also mirrored counts once, by its more similar copy.

    Scores do not depend on how queries are batched: on 256 levels, which queries are rounded to as files do,
    inner products are sums of whole numbers and exact.

    Args:
        top: Number of most similar images to average over; a smaller group takes all that it has.
        groups: Groups to score; None takes all groups that have samples.
    """

    top: int = 10
    _: KW_ONLY
    groups: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.top < 1:
            raise ConfigError(
                "top is out of range", found=self.top, expected="top >= 1", fix="take the usual 10"
            )

    def fit(self, context: AttributionContext) -> FittedSimilarity:
        """Take the training images and hash them.

        Args:
            context: The training data and, if they are not its own, their groups.

        Raises:
            ConfigError: There are no training data.
            GroupError: The groups are those of other data, or one does not exist or cannot be removed.
        """
        data, grouping = training_data(context, "similarity")
        groups = tuple(self.groups or (name for name in grouping.names if grouping.size(name)))
        for name in groups:
            grouping.check([name])
        return FittedSimilarity(
            groups=groups,
            method="similarity",
            data=data,
            grouping=grouping,
            top=self.top,
            images_hash=_images_hash(data),
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class FittedSimilarity(FittedAttributor):
    """Similarities to the images of training data.

    Attributes:
        data: The training data.
        grouping: Which of them belong to which group.
        top: Number of most similar images to average over.
        images_hash: Hash of the training images.
    """

    data: GroupDataModule
    grouping: Grouping
    top: int
    images_hash: str

    def score(self, queries: Queries) -> ScoreTable:
        """Score every query against every group.

        Args:
            queries: ``Q`` queries.

        Returns:
            ``Q × groups`` rows of one weighting, ``cosine``, without standard errors.

        Raises:
            QueryError: No queries, or some that are not like the training images.
        """
        refuse_no_queries(queries)
        refuse_unlike(queries, self.data)
        pixels = _whole(queries.images)
        scores = torch.stack([self._similarity(pixels, group) for group in self.groups], dim=1)
        return ScoreTable.from_matrix(
            scores,
            torch.zeros_like(scores),
            query_ids=queries.ids,
            groups=self.groups,
            n_draws=1,
            method=self.method,
            weighting="cosine",
            seed=self.seed,
            record=self.record(queries),
        )

    def record(self, queries: Queries) -> ScoreRecord:
        """What identifies the scores of these queries: images and groups."""
        return ScoreRecord(
            Similarity(images_hash=self.images_hash, mirrored=self.data.horizontal_flip, top=self.top),
            query_hash=query_hash(queries),
            grouping_hash=self.grouping.hash,
            group_sizes={name: self.grouping.size(name) for name in self.groups},
        )

    def _similarity(self, queries: Tensor, group: str) -> Tensor:
        """Mean of the largest cosines with a group's images: ``[queries, dims] -> [queries]``."""
        best = queries.new_empty(len(queries), 0)
        members = self.grouping.forget([group])
        for start in range(0, len(members), _CHUNK):
            part = members[start : start + _CHUNK]
            images = _whole(self.data.seen_images(part))  # mirrored copies follow the images
            lengths = queries.norm(dim=1, keepdim=True) * images.norm(dim=1)
            cosines = (queries @ images.T / lengths).view(len(queries), -1, len(part)).amax(dim=1)
            best = torch.cat([best, cosines], dim=1)
            best = best.topk(min(self.top, best.shape[1])).values
        # One by one: a sum over a dimension may add in another order for another number of queries.
        mean: Tensor = sum(best.unbind(1), start=best.new_zeros(len(best))) / best.shape[1]
        return mean


def _images_hash(data: GroupDataModule) -> str:
    digest = hashlib.sha256()
    for start in range(0, len(data.ids), _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, len(data.ids)))
        digest.update(data.pixels(rows).contiguous().numpy().data)
    return digest.hexdigest()


def _whole(images: Tensor) -> Tensor:
    """Images in [-1, 1] as ``[images, dims]`` float64, odd whole numbers in -255..255: no vector is zero."""
    return 2 * from_unit(images).flatten(1).double() - 255
