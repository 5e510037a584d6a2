"""What a trainer's data say of the samples in a batch, where the data are ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from lightning.pytorch import Trainer
from torch import Tensor

from guda_lightning.callbacks.batch_entries import Key, names
from guda_lightning.data import GroupDataModule, UnlearnDataModule
from guda_lightning.data.grouping import Grouping
from guda_lightning.types import JOINT, content_keys

_INDEX = "index"  # the entry of a batch that names its samples


def data_of(trainer: Trainer) -> GroupDataModule | None:
    """The trainer's data, if it is ours; while unlearning, that of all groups."""
    data: Any = getattr(trainer, "datamodule", None)
    data = data.parent if isinstance(data, UnlearnDataModule) else data
    return data if isinstance(data, GroupDataModule) else None


def grouping_of(trainer: Trainer) -> Grouping | None:
    """Which samples belong to which groups, if the trainer's data knows."""
    return getattr(getattr(trainer, "datamodule", None), "grouping", None)


def is_ours(trainer: Trainer, batch: Any) -> bool:
    """Whether a batch is of our data, in [-1, 1] or latents; a trainer may hold a datamodule of before."""
    return _ours(trainer, batch) is not None


def names_of(trainer: Trainer, batch: Any, count: int) -> Sequence[str | None]:
    """What the samples of a batch are called: as in our data, else as the batch says; None without a name."""
    called, data = names(batch, _INDEX, count), _ours(trainer, batch)
    return called if data is None else [None if name is None else data.ids[int(name)] for name in called]


def noise_keys_of(
    trainer: Trainer, batch: Any, rows: Sequence[int], images: Tensor, count: int
) -> tuple[str, ...]:
    """What keys the noise of some samples of a batch: their pictures, also where the model takes latents.

    Args:
        trainer: Whose data know the pictures behind latents, if they are ours.
        batch: The batch.
        rows: Of the samples.
        images: What the batch holds of them.
        count: Samples of the batch.
    """
    data, called = _ours(trainer, batch), names(batch, _INDEX, count)
    samples = [int(name) for row in rows if (name := called[row]) is not None and data is not None]
    if data is None or len(samples) < len(rows):
        return content_keys(images)
    return data.noise_keys(np.array(samples)) or content_keys(images)


def groups_of(trainer: Trainer, batch: Any, key: Key | None, count: int) -> Sequence[str | None]:
    """The group that each sample of a batch belongs to; of several groups all names, None where unknown.

    Args:
        trainer: Whose data say so, if they are ours.
        batch: The batch.
        key: Where another batch says so; None: nowhere.
        count: Samples of the batch.
    """
    data = _ours(trainer, batch)
    if data is None:
        return [None] * count if key is None else names(batch, key, count)
    members = batch[_groups_key(data)].tolist()
    groups = data.grouping.names
    held = ([name for name, inside in zip(groups, row, strict=True) if inside] for row in members)
    return [JOINT.join(names) or None for names in held]


def _ours(trainer: Trainer, batch: Any) -> GroupDataModule | None:
    data = data_of(trainer)
    held = data is not None and isinstance(batch, Mapping) and _groups_key(data) in batch
    return data if held else None


def _groups_key(data: GroupDataModule) -> str:
    return data.batch_keys.get("groups", "groups")
