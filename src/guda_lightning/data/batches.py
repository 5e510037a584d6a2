"""Batches whose order and flips are a pure function of (seed, epoch, pass)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from guda_lightning.data.grouping import Indices
from guda_lightning.data.images import as_input
from guda_lightning.distributed.ranks import Ranks
from guda_lightning.errors import ConfigError

Batch = dict[str, Tensor]


class Samples(Dataset[Batch]):
    """Training images in memory, some of them chosen; item ``len(self) + i`` is item ``i`` mirrored.

    A whole batch is one indexing operation. Loader workers would only slow it down; they would also begin a
    resumed run with epoch 0, because Lightning starts them before it calls ``set_epoch``.

    Args:
        inputs: ``[samples, channels, height, width]`` uint8 pixels or float32 latents, all of them.
        labels: ``[samples]`` int64, or None.
        membership: ``[samples, groups]`` bool.
        chosen: Indices of the samples that this data set holds.
        batch_keys: Other names for entries of a batch.
    """

    def __init__(
        self,
        inputs: Tensor,
        labels: Tensor | None,
        membership: Tensor,
        chosen: Indices,
        batch_keys: Mapping[str, str],
    ) -> None:
        self.inputs, self.labels, self.membership = inputs, labels, membership
        self.chosen = torch.from_numpy(chosen)
        self.batch_keys = batch_keys

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, item: int) -> Batch:
        return {key: value[0] for key, value in self.__getitems__([item]).items()}

    def __getitems__(self, items: Sequence[int]) -> Batch:
        """Return one batch: ``image`` (in [-1, 1], or latents), ``index``, ``groups`` and any ``label``."""
        positions = torch.as_tensor(items)
        index = self.chosen[positions % len(self)]
        image = as_input(self.inputs[index])  # a copy: indexed by a tensor
        mirrored = positions >= len(self)
        image[mirrored] = image[mirrored].flip(-1)
        batch = {"image": image, "index": index, "groups": self.membership[index]}
        if self.labels is not None:
            batch["label"] = self.labels[index]
        return {self.batch_keys.get(key, key): value for key, value in batch.items()}


class SeededSampler(DistributedSampler[Any]):
    """Deals samples to processes; Lightning calls ``set_epoch`` and leaves a DistributedSampler in place.

    A second pass within one epoch, as the smaller side of a pair of loaders makes, has an order of its own.
    Every sample has its own random place and flip, whichever others are drawn: those that two trainings share
    come in the same order.

    Args:
        samples: What to draw from.
        seed: Seed of order and flips, at least 0.
        shuffle: Whether to shuffle.
        mirror: Whether to mirror half of the samples, drawn anew for every pass.
        num_replicas: Number of processes.
        rank: This process.
        drop_last: Whether to leave out samples rather than repeat some, so that all processes get as many.
    """

    def __init__(
        self,
        samples: Samples,
        *,
        seed: int,
        shuffle: bool,
        mirror: bool,
        num_replicas: int,
        rank: int,
        drop_last: bool,
    ) -> None:
        super().__init__(
            samples, num_replicas=num_replicas, rank=rank, shuffle=shuffle, seed=seed, drop_last=drop_last
        )
        self.chosen, self.everyone = samples.chosen.numpy(), len(samples.inputs)
        self.mirror = mirror
        self.passes = 0

    def set_epoch(self, epoch: int) -> None:
        """Start the passes of another epoch."""
        self.passes = 0
        super().set_epoch(epoch)

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.epoch, self.passes])
        self.passes += 1
        count = len(self.chosen)
        places, coins = rng.random((2, self.everyone))[:, self.chosen]
        mirrored = (coins < 0.5) & self.mirror
        order = places.argsort() if self.shuffle else np.arange(count)
        order = np.resize(order, self.total_size)  # cuts, or starts over
        items = order + count * mirrored[order]
        return iter(items[self.rank :: self.num_replicas].tolist())


def make_loader(
    samples: Samples,
    trainer: Trainer | None,
    *,
    train: bool,
    mirror: bool,
    batch_size: int,
    seed: int,
) -> DataLoader[Batch]:
    """Make a loader of whole batches for this process.

    Args:
        samples: What to draw from.
        trainer: Says how many processes share the work; None is one process.
        train: Whether to shuffle and to leave out an incomplete last batch (when there is a complete one).
        mirror: Whether to mirror half of the samples.
        batch_size: Samples per batch and process.
        seed: Seed of order and flips.
    """
    ranks = Ranks.of(trainer)
    drop_last = train and len(samples) >= batch_size * ranks.count
    sampler = SeededSampler(
        samples,
        seed=seed,
        shuffle=train,
        mirror=mirror,
        num_replicas=ranks.count,
        rank=ranks.rank,
        drop_last=drop_last,
    )
    return DataLoader(
        samples,
        batch_size=batch_size,
        sampler=sampler,
        collate_fn=_whole,
        drop_last=drop_last,
    )


def _whole(batch: Any) -> Any:
    """``Samples.__getitems__`` has made the batch already."""
    return batch


def checked_batch_keys(batch_keys: dict[str, str]) -> dict[str, str]:
    """Return new names for the entries of a batch, if they are that.

    Raises:
        ConfigError: An entry does not exist, or two would have one name.
    """
    entries = ("image", "label", "index", "groups")
    if not set(batch_keys) <= set(entries) or len({*entries, *batch_keys.values()}) != 4 + len(batch_keys):
        raise ConfigError(
            "data.batch_keys is invalid",
            found=batch_keys,
            expected=f"a new name for each of {', '.join(entries)}, or for some of them",
            fix="set data.batch_keys, e.g. to {image: images}",
        )
    return batch_keys
