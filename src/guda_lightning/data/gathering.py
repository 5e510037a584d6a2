"""Queries of several batches, loaders and processes, brought together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import NamedTuple

import torch
from torch import Tensor

from guda_lightning.errors import QueryError


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


def distinct(parts: Sequence[Collected]) -> Collected:
    """All parts as one, without repeats.

    Raises:
        QueryError: Two queries of one id are not the same, or not of one size.
    """
    everything = _cat(parts)
    return everything.take(_first_rows(everything))


def dealt(ranks: Sequence[Collected]) -> Collected:
    """The queries of all ranks in the order in which a sampler dealt them, each once.

    A distributed sampler deals like cards, and repeats some samples to make ranks even.

    Raises:
        QueryError: Two queries of one id are not the same, or not of one size.
    """
    ends = torch.tensor([len(rank.ids) for rank in ranks]).cumsum(0).tolist()
    hands = [range(end - len(rank.ids), end) for rank, end in zip(ranks, ends, strict=True)]
    queries = _cat(ranks).take([row for round_ in zip_longest(*hands) for row in round_ if row is not None])
    return queries.take(_first_rows(queries))


def evenly(loaders: Sequence[Collected], most: int) -> Collected:
    """At most ``most`` queries, the first of each loader: as many of each where all of them have as many.

    Raises:
        QueryError: Two queries of one id are not the same, or not of one size.
    """
    everything = _cat(loaders)
    loader = [number for number, part in enumerate(loaders) for _ in part.ids]
    rows = _first_rows(everything)
    hands = [[row for row in rows if loader[row] == number] for number in range(len(loaders))]
    rounds = [row for round_ in zip_longest(*hands) for row in round_ if row is not None]
    return everything.take(sorted(rounds[:most]))


def _cat(parts: Sequence[Collected]) -> Collected:
    sizes = sorted({tuple(part.images.shape[1:]) for part in parts})
    if len(sizes) > 1:
        raise QueryError(
            "the images of the validation are not all of one size",
            found=" and ".join(str(list(size)) for size in sizes),
            expected="the same channels, height and width in every batch",
            fix="resize them in the data, or pass queries=FOLDER to score pictures of one size",
        )
    labels = [part.labels for part in parts if part.labels is not None]
    return Collected(
        tuple(i for part in parts for i in part.ids),
        torch.cat([part.images for part in parts]),
        torch.cat(labels) if labels else None,
        torch.cat([part.own for part in parts]),
    )


def _first_rows(queries: Collected) -> list[int]:
    """The first row of every id."""
    first: dict[str, int] = {}
    for row, name in enumerate(queries.ids):
        before = first.setdefault(name, row)
        same = torch.equal(queries.images[before], queries.images[row])
        if not same or (queries.labels is not None and queries.labels[before] != queries.labels[row]):
            raise QueryError(
                f"two validation samples have the id '{name}'",
                found="the same image with two labels" if same else "two images",
                expected="an entry 'index' in every batch that gives each sample a name of its own",
                fix="correct it" if not same else "add it to the data: without it, the pixels are the name",
            )
    return list(first.values())
