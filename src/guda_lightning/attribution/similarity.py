"""Similarity to training images, in pixels or features: what attribution by counterfactuals has to beat."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

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
from guda_lightning.attribution.encoders import Encoder, Pixels
from guda_lightning.attribution.features import TrainingFeatures
from guda_lightning.data import GroupDataModule, query_hash
from guda_lightning.data.grouping import Grouping, Indices
from guda_lightning.errors import check_range
from guda_lightning.progress_bar import Bar, progress_bar
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
        check_range("top", self.top, ge=1, fix="take the usual 10")

    def fit(self, context: AttributionContext) -> FittedSimilarity:
        """Take the training images and hash them.

        Args:
            context: The training data and, if they are not its own, their groups.

        Raises:
            ConfigError: There are no training data.
            GroupError: The groups are those of other data, or one does not exist or cannot be removed.
        """
        return _fitted(context, Pixels(), self.top, self.groups, keep=False)


@dataclass(frozen=True)
class FeatureSimilarity(Attributor):
    """Mean cosine between the features of a query and those of each group's training images.

    With CLIP and all of a group's images it is the formula of the CLIPA that GUDA (arXiv 2601.22651) compares
    with: the inner product with the mean of the group's unit vectors. GUDA's code for CIFAR-10 takes the
    pooled states of ViT-B/32 before the projection, of the first 1000 images of a class. It says what is
    alike, not what a model learnt.

    Features of the training images are computed once and kept in the context's ``features``, 1024 images a
    file; an image that training also mirrored has two, of which the more similar one counts, or both half
    in a mean over all images.

    Args:
        encoder: What the features come from: `CLIPImages`, `DINOv2`, or an `Encoder` of your own.
        top: Number of most similar images to average over; a smaller group takes all that it has. None: all.
        groups: Groups to score; None takes all groups that have samples.
    """

    encoder: Encoder
    top: int | None = None
    _: KW_ONLY
    groups: Sequence[str] | None = None

    def __post_init__(self) -> None:
        check_range("top", self.top, ge=1, fix="take 10, or null for the mean over all images of a group")

    def fit(self, context: AttributionContext) -> FittedSimilarity:
        """Take the training images and load the encoder; ``prepare`` computes the features.

        Args:
            context: The training data and, if they are not its own, their groups.

        Raises:
            ConfigError: There are no training data.
            GroupError: The groups are those of other data, or one does not exist or cannot be removed.
            StoreError: The encoder cannot be read.
        """
        return _fitted(context, self.encoder, self.top, self.groups, keep=True)


@dataclass(frozen=True, eq=False, kw_only=True)
class FittedSimilarity(FittedAttributor):
    """Similarities to the images of training data.

    Attributes:
        data: The training data.
        grouping: Which of them belong to which group.
        features: Those of the training images, and their encoder.
        details: What identifies the scores beside queries and groups.
    """

    data: GroupDataModule
    grouping: Grouping
    features: TrainingFeatures
    details: Similarity

    def prepare(self) -> None:
        """Compute the features that are not kept yet."""
        self.features.prepare(_CHUNK)

    def kept(self) -> tuple[Path, ...]:
        """Where the features are, if they are kept."""
        return self.features.files

    def score(self, queries: Queries) -> ScoreTable:
        """Score every query against every group.

        Args:
            queries: ``Q`` queries.

        Returns:
            ``Q × groups`` rows of one weighting, ``cosine``, without standard errors.

        Raises:
            QueryError: No queries, or some that are not like the training images.
            NumericsError: Features that have no direction.
        """
        refuse_no_queries(queries)
        refuse_unlike(queries, self.data)
        with self._bar("encode queries", "queries", len(queries)) as bar:
            features = self.features.encoded(queries.images, bar.update)
        scores = self._similarities(features)
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
        """What identifies the scores of these queries: images, encoder and groups."""
        return ScoreRecord(
            self.details,
            query_hash=query_hash(queries),
            grouping_hash=self.grouping.hash,
            group_sizes={name: self.grouping.size(name) for name in self.groups},
        )

    def bytes_per_query(self) -> int:
        """About how much memory ``score`` needs for every query: cosines of a chunk, and the best so far."""
        return super().bytes_per_query() + 8 * (4 * _CHUNK + (self.details.top or 1) * len(self.groups))

    def _similarities(self, queries: Tensor) -> Tensor:
        """Mean cosines ``[queries, dims] -> [queries, groups]`` float64, in one pass over the images."""
        top, lengths = self.details.top, queries.norm(dim=1, keepdim=True)
        members = {name: self.grouping.forget([name]) for name in self.groups}
        found = {name: queries.new_zeros(len(queries), 0 if top else 1) for name in self.groups}
        needed = np.unique(np.concatenate(list(members.values())))
        with self._bar("compare images", "images", len(needed)) as bar:
            for part in self._parts(needed):
                images = self.features.of(part, _CHUNK)  # mirrored copies follow the images
                products = queries @ images.T / (lengths * images.norm(dim=1))
                of_copies = products.unflatten(1, (-1, len(part)))
                cosines = of_copies.amax(dim=1) if top else of_copies.mean(dim=1)
                for name, rows in members.items():
                    of_group = cosines[:, np.isin(part, rows, assume_unique=True)]
                    if top is None:
                        found[name] += of_group.sum(dim=1, keepdim=True)
                    elif of_group.shape[1]:
                        best = torch.cat([found[name], of_group], dim=1)
                        found[name] = best.topk(min(top, best.shape[1])).values
                bar.update(len(part))
        # One by one: a sum over a dimension may add in another order for another number of queries.
        sums = [sum(found[name].unbind(1), start=queries.new_zeros(len(queries))) for name in self.groups]
        counts = [found[name].shape[1] if top else len(members[name]) for name in self.groups]
        return torch.stack([one / count for one, count in zip(sums, counts, strict=True)], dim=1)

    def _bar(self, title: str, unit: str, total: int) -> Bar:
        """All processes do the same; the first one shows it."""
        shown = self.features.execution.ranks.rank == 0
        return progress_bar(title, unit, total, shown=shown, lines=True, delay=2)

    def _parts(self, needed: Indices) -> Iterator[Indices]:
        """The images that are in some group, those of one file of features at a time."""
        for start in range(0, len(self.data.ids), _CHUNK):
            first, last = np.searchsorted(needed, [start, start + _CHUNK])
            if first < last:
                yield needed[first:last]


def _fitted(
    context: AttributionContext, encoder: Encoder, top: int | None, chosen: Sequence[str] | None, keep: bool
) -> FittedSimilarity:
    """Similarities by an encoder, whose features are kept or made anew."""
    data, grouping = training_data(context, encoder.name)
    groups = tuple(chosen or (name for name in grouping.names if grouping.size(name)))
    for name in groups:
        grouping.check([name])
    images_hash = _images_hash(data)
    return FittedSimilarity(
        groups=groups,
        method=encoder.name,
        data=data,
        grouping=grouping,
        features=TrainingFeatures(
            data, encoder, images_hash, context.features if keep else None, context.execution
        ),
        details=Similarity(
            images_hash=images_hash,
            mirrored=data.horizontal_flip,
            top=top,
            encoder=encoder.hash if keep else None,
        ),
    )


def _images_hash(data: GroupDataModule) -> str:
    digest = hashlib.sha256()
    for start in range(0, len(data.ids), _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, len(data.ids)))
        digest.update(data.pixels(rows).contiguous().numpy().data)
    return digest.hexdigest()
