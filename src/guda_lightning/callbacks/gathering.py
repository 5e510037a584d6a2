"""Queries of several batches and processes, brought together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from torch import Tensor


class Collected(NamedTuple):
    """Queries; all tensors on the CPU."""

    ids: tuple[str, ...]
    images: Tensor
    labels: Tensor | None
    own: Tensor  # [queries] bool, which belong to the groups that the student forgets

    def take(self, rows: Sequence[int]) -> Collected:
        """Some of the queries, in the order of ``rows``."""
        labels = None if self.labels is None else self.labels[list(rows)]
        ids = tuple(self.ids[row] for row in rows)
        return Collected(ids, self.images[list(rows)], labels, self.own[list(rows)])


class Scored(NamedTuple):
    """Queries with their scores and standard errors, ``[queries, groups]`` on the CPU."""

    of: Collected
    scores: Tensor
    stderr: Tensor

    def take(self, rows: Sequence[int]) -> Scored:
        """Some of the queries, in the order of ``rows``."""
        return Scored(self.of.take(rows), self.scores[list(rows)], self.stderr[list(rows)])

    def first(self, count: int) -> Scored:
        """At most the first ``count`` queries."""
        return self.take(range(min(count, len(self.of.ids))))


def distinct(parts: Sequence[Collected]) -> Collected:
    """All parts as one, without repeats: of equal ids the first counts."""
    joined = _cat(parts)
    return joined.take(_first_rows(joined.ids))


def gathered(part: Scored, trainer: Trainer) -> list[Scored]:
    """The parts of all ranks, on every rank."""
    if trainer.world_size == 1:
        return [part]
    ranks: list[Any] = [None] * trainer.world_size
    dist.all_gather_object(ranks, part)
    return ranks


def merged(ranks: Sequence[Scored]) -> Scored:
    """The queries of all ranks in the order in which a sampler dealt them, each once.

    A distributed sampler deals like cards, and repeats some samples to make ranks even.
    """
    joined = Scored(
        _cat([rank.of for rank in ranks]),
        torch.cat([rank.scores for rank in ranks]),
        torch.cat([rank.stderr for rank in ranks]),
    )
    ends = torch.tensor([len(rank.of.ids) for rank in ranks]).cumsum(0).tolist()
    hands = [range(end - len(rank.of.ids), end) for rank, end in zip(ranks, ends, strict=True)]
    dealt = joined.take([row for round_ in zip_longest(*hands) for row in round_ if row is not None])
    return dealt.take(_first_rows(dealt.of.ids))


def _cat(parts: Sequence[Collected]) -> Collected:
    labels = [part.labels for part in parts if part.labels is not None]
    return Collected(
        tuple(i for part in parts for i in part.ids),
        torch.cat([part.images for part in parts]),
        torch.cat(labels) if labels else None,
        torch.cat([part.own for part in parts]),
    )


def _first_rows(ids: Sequence[str]) -> list[int]:
    return sorted({name: row for row, name in reversed(list(enumerate(ids)))}.values())
