"""Queries of several batches and processes, brought together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import NamedTuple

import torch
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

    def first(self, count: int) -> Collected:
        """At most the first ``count`` queries."""
        return self.take(range(min(count, len(self.ids))))


def distinct(parts: Sequence[Collected]) -> Collected:
    """All parts as one, without repeats: of equal ids the first counts."""
    joined = _cat(parts)
    return joined.take(_first_rows(joined.ids))


def dealt(ranks: Sequence[Collected]) -> Collected:
    """The queries of all ranks in the order in which a sampler dealt them, each once.

    A distributed sampler deals like cards, and repeats some samples to make ranks even.
    """
    ends = torch.tensor([len(rank.ids) for rank in ranks]).cumsum(0).tolist()
    hands = [range(end - len(rank.ids), end) for rank, end in zip(ranks, ends, strict=True)]
    joined = _cat(ranks)
    queries = joined.take([row for round_ in zip_longest(*hands) for row in round_ if row is not None])
    return queries.take(_first_rows(queries.ids))


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
