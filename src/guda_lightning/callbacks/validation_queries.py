"""The queries that a validation scores: those of its batches, or fixed ones."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from guda_lightning.data import GroupDataModule, UnlearnDataModule, load_queries
from guda_lightning.data.gathering import Collected, dealt, distinct
from guda_lightning.data.grouping import Grouping
from guda_lightning.diffusion import DiffusionModule
from guda_lightning.distributed.ranks import Ranks
from guda_lightning.errors import ConfigError
from guda_lightning.types import Queries
from guda_lightning.unlearning import UnlearnModule


@dataclass
class ValidationQueries:
    """Collects queries batch by batch.

    Attributes:
        path: An image or a folder of images to take each time; None takes the validation batches.
        most: Take at most this many queries of the validation batches, over all ranks.
        image_key: Key (or position) of the images in a batch.
        label_key: Key (or position) of the class labels; None for a network without them.
    """

    path: str | Path | None
    most: int
    image_key: str | int
    label_key: str | int | None
    _collected: list[Collected] = field(default_factory=list, init=False)
    _fixed: Queries | None = field(default=None, init=False)

    def start(self) -> None:
        """Forget the batches of the last validation."""
        self._collected = []

    def add(self, trainer: Trainer, module: LightningModule, batch: Any, dataloader_idx: int) -> None:
        """Collect a batch, up to this rank's share.

        Raises:
            ConfigError: There are no images at ``image_key``.
            QueryError: The fixed queries cannot be read.
        """
        images = self._images(batch)
        if self.path is not None:
            self._fixed = self._fixed or self._read(self.path, trainer, module, images)
            return
        room = -(-self.most // trainer.world_size) - sum(len(part.ids) for part in self._collected)
        if room > 0 and not trainer.sanity_checking:
            self._collected.append(self._from_batch(module, batch, images[:room], dataloader_idx))

    def gathered(self, ranks: Ranks) -> Collected:
        """The queries of all ranks, each once, on every rank."""
        if self._fixed is None:
            return dealt(ranks.all_gather(distinct(self._collected))).first(self.most)
        fixed, none = self._fixed, torch.zeros(len(self._fixed), dtype=torch.bool)
        return Collected(fixed.ids, fixed.inputs, fixed.labels, none)

    def conditional(self, module: LightningModule) -> bool:
        """Whether the module's network takes class labels."""
        return module.conditional if isinstance(module, DiffusionModule) else self.label_key is not None

    def _images(self, batch: Any) -> Tensor:
        try:
            images = batch[self.image_key]
        except (KeyError, IndexError, TypeError):
            images = None
        if not (isinstance(images, Tensor) and images.dim() == 4):
            raise ConfigError(
                f"the validation batch has no images at image_key={self.image_key!r}",
                found=_described(batch) if images is None else _described(images),
                expected="a tensor [batch, channels, height, width] with values in [-1, 1]",
                fix="pass image_key=... with the key or position of the images in a batch",
            )
        return images.detach().cpu().float()

    def _from_batch(
        self, module: LightningModule, batch: Any, images: Tensor, dataloader_idx: int
    ) -> Collected:
        """The first queries of a batch, and which of them the student forgets."""
        room, own = len(images), torch.zeros(len(images), dtype=torch.bool)
        if isinstance(module, UnlearnModule):
            own = module.is_forget(batch)[:room].cpu()
        label_key = "label" if self.label_key is None else self.label_key
        labels = batch[label_key][:room].cpu() if self.conditional(module) else None
        if isinstance(batch, Mapping) and "index" in batch:
            # Every loader counts its samples from zero.
            loader = f"{dataloader_idx}/" if dataloader_idx else ""
            ids = [f"{loader}{i}" for i in batch["index"][:room].tolist()]
        else:
            ids = [hashlib.sha256(image.numpy().tobytes()).hexdigest()[:16] for image in images]
        return Collected(tuple(ids), images, labels, own)

    def _read(self, path: str | Path, trainer: Trainer, module: LightningModule, like: Tensor) -> Queries:
        """The fixed queries, as the model takes them; without data of ours, of the shape of a batch."""
        data = data_of(trainer)
        if data is None:
            channels, height, width = like.shape[1:]
            return load_queries(path, (channels, height, width))
        return data.as_queries(load_queries(path, data.image_shape), self.conditional(module))


def data_of(trainer: Trainer) -> GroupDataModule | None:
    """The trainer's data, if it is ours; while unlearning, that of all groups."""
    data: Any = getattr(trainer, "datamodule", None)
    data = data.parent if isinstance(data, UnlearnDataModule) else data
    return data if isinstance(data, GroupDataModule) else None


def grouping_of(trainer: Trainer) -> Grouping | None:
    """Which samples belong to which groups, if the trainer's data knows."""
    return getattr(getattr(trainer, "datamodule", None), "grouping", None)


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return f"a batch with keys {sorted(map(str, value))}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"
