"""Training samples in the form of queries, so that both are noised alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from guda_lightning.data import GroupDataModule
from guda_lightning.data.grouping import Indices
from guda_lightning.data.images import as_input
from guda_lightning.types import Queries


def training_samples(data: GroupDataModule, indices: Indices, conditional: bool) -> Queries:
    """Some training samples as queries named by their ids; their ``images`` are what the model takes.

    Args:
        data: The training data.
        indices: Their positions.
        conditional: Whether the model takes the samples' labels.
    """
    labels = data.labels[indices] if conditional and data.labels is not None else None
    ids = tuple(data.ids[index] for index in indices)
    return Queries(ids, as_input(data.inputs[indices]), labels, keys=data.noise_keys(indices))


def seen_count(data: GroupDataModule) -> int:
    """Number of images that training saw: a mirrored copy counts as one of its own."""
    return len(data.ids) * (1 + data.horizontal_flip)


def seen_samples(data: GroupDataModule, rows: Indices, conditional: bool) -> Queries:
    """Some of the images that training saw, as queries.

    Args:
        data: The training data.
        rows: Their numbers below ``seen_count``: first all samples, then, if training mirrors, their copies.
        conditional: Whether the model takes the samples' labels.
    """
    count = len(data.ids)
    samples = training_samples(data, rows % count, conditional)
    mirrored = rows >= count
    if not mirrored.any():
        return samples
    images, copies = samples.images.clone(), torch.from_numpy(mirrored)
    images[copies] = images[copies].flip(-1)

    def named(names: Sequence[str]) -> tuple[str, ...]:
        return tuple(f"{name} mirrored" if copy else name for name, copy in zip(names, mirrored, strict=True))

    keys = None if samples.keys is None else named(samples.keys)
    return replace(samples, ids=named(samples.ids), images=images, keys=keys)
