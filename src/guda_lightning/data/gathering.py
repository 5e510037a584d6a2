"""Queries of several batches, loaders and processes, brought together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import NamedTuple

import torch
from torch import Tensor

from guda_lightning.errors import QueryError
from guda_lightning.types import Queries


class Collected(NamedTuple):
    """Queries; all tensors on the CPU."""

    ids: tuple[str, ...]
    titles: tuple[str, ...]  # what people read: the ids, with the place of those that are hashes
    images: Tensor
    labels: Tensor | None
    own: Tensor  # [queries] bool, which belong to the groups that the student forgets
    groups: tuple[str | None, ...]  # which group each belongs to, where that is known
    places: tuple[int, ...]  # where each stands in its loader
    lots: tuple[int, ...]  # what was drawn for each: those with the smallest are taken
    keys: tuple[str, ...]  # of their noise, as ``Queries.noise_keys``

    @classmethod
    def of(cls, queries: Queries) -> Collected:
        """Queries none of which was drawn."""
        count = len(queries)
        own, places = torch.zeros(count, dtype=torch.bool), tuple(range(count))
        unknown = (None,) * count
        named, keys = (queries.ids, queries.ids), queries.noise_keys
        return cls(*named, queries.inputs, queries.labels, own, unknown, places, places, keys)

    def take(self, rows: Sequence[int]) -> Collected:
        """Some of the queries, in the order of ``rows``."""
        chosen = list(rows)
        return Collected(
            tuple(self.ids[row] for row in chosen),
            tuple(self.titles[row] for row in chosen),
            self.images[chosen],
            None if self.labels is None else self.labels[chosen],
            self.own[chosen],
            tuple(self.groups[row] for row in chosen),
            tuple(self.places[row] for row in chosen),
            tuple(self.lots[row] for row in chosen),
            tuple(self.keys[row] for row in chosen),
        )


def drawn(parts: Sequence[Collected], most: int) -> Collected:
    """The ``most`` queries with the smallest lots, each once, by rising lots.

    A distributed sampler repeats some samples to make ranks even.

    Raises:
        QueryError: Two queries of one id are not the same, or not of one size.
    """
    everything = joined(parts)
    ordered = everything.take(sorted(range(len(everything.ids)), key=everything.lots.__getitem__))
    return ordered.take(_first_rows(ordered)[:most])


def evenly(loaders: Sequence[Collected], most: int) -> Collected:
    """At most ``most`` queries: as many of each loader where all have as many, each in its loader's order.

    Args:
        loaders: What was drawn from each.
        most: How many.

    Raises:
        QueryError: Two queries of one id are not the same, or not of one size.
    """
    everything = joined(loaders)
    loader = [number for number, part in enumerate(loaders) for _ in part.ids]
    rows = _first_rows(everything)
    hands = [[row for row in rows if loader[row] == number] for number in range(len(loaders))]
    rounds = [row for round_ in zip_longest(*hands) for row in round_ if row is not None]
    return everything.take(sorted(rounds[:most], key=lambda row: (loader[row], everything.places[row])))


def joined(parts: Sequence[Collected]) -> Collected:
    """All parts as one, repeats included.

    Raises:
        QueryError: They are not of one size.
    """
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
        tuple(title for part in parts for title in part.titles),
        torch.cat([part.images for part in parts]),
        torch.cat(labels) if labels else None,
        torch.cat([part.own for part in parts]),
        tuple(group for part in parts for group in part.groups),
        tuple(place for part in parts for place in part.places),
        tuple(lot for part in parts for lot in part.lots),
        tuple(key for part in parts for key in part.keys),
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
