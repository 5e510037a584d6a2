"""The queries that a validation scores: those of its batches, or fixed ones."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from guda_lightning.callbacks.batch_entries import (
    Key,
    as_argument,
    as_tensor,
    described,
    entries,
    entry,
    names,
)
from guda_lightning.callbacks.image_range import ImageRange
from guda_lightning.callbacks.network_inputs import NetworkInputs
from guda_lightning.data import GroupDataModule, UnlearnDataModule, load_queries
from guda_lightning.data.gathering import Collected, dealt, distinct, evenly
from guda_lightning.data.grouping import Grouping
from guda_lightning.data.queries import with_labels
from guda_lightning.data.query_folder import picture_shape
from guda_lightning.diffusion import DiffusionModule
from guda_lightning.distributed.ranks import Ranks
from guda_lightning.errors import ConfigError, QueryError
from guda_lightning.types import Queries
from guda_lightning.unlearning import UnlearnModule

_INDEX = "index"  # the entry of a batch that names its samples


class _Begun(NamedTuple):
    """What a batch held before a step had it."""

    batch: Any
    held: dict[Any, Any]  # of a dictionary
    images: Tensor | None


@dataclass
class ValidationQueries:
    """Collects queries batch by batch.

    Attributes:
        path: An image or a folder of images to take each time; None takes the validation batches.
        most: Take at most this many queries of the validation batches, over all ranks and loaders.
        image_key: Key, position or dotted path of the images in a batch.
        label_key: The same of the class labels; None for a network without them.
        image_range: The values that the images of a batch have.
    """

    path: str | Path | None
    most: int
    image_key: Key
    label_key: Key | None
    image_range: ImageRange
    _collected: dict[int, list[Collected]] = field(default_factory=dict, init=False)
    _begun: _Begun | None = field(default=None, init=False)
    _fixed: Queries | None = field(default=None, init=False)

    def start(self, trainer: Trainer, module: LightningModule, inputs: NetworkInputs) -> None:
        """Forget the batches of the last validation, and read the fixed queries, if there are any.

        Raises:
            QueryError: The fixed queries cannot be read, or do not fit the network.
            ConfigError: The network takes labels that the batches are not asked for, or none.
        """
        self._collected, self._inputs, self._met = {}, inputs, False
        self.image_range.start()
        if self.path is not None and self._fixed is None:
            self._fixed = self._read(self.path, trainer, module)
        if not isinstance(module, DiffusionModule):
            inputs.check_label_key(self.label_key)
            if self._fixed is not None:
                inputs.check(self._fixed.inputs, self._fixed.labels, "the queries")

    def begin(self, trainer: Trainer, batch: Any, dataloader_idx: int) -> None:
        """Keep what a batch holds before a step changes images in place, or takes entries out."""
        self._begun = None
        if self._wants(trainer, dataloader_idx):
            images = self._found(batch)
            held = dict(batch) if isinstance(batch, Mapping) else {}
            self._begun = _Begun(batch, held, None if images is None else images.clone())

    def add(self, trainer: Trainer, module: LightningModule, batch: Any, dataloader_idx: int) -> None:
        """Collect a batch, up to this rank's share; where queries are fixed, it is not looked at.

        Raises:
            ConfigError: There are no images at ``image_key``, no labels at ``label_key``, or the network
                cannot be called on them.
            QueryError: They are not in the stated range, or do not fit the network.
        """
        begun, self._begun = self._begun, None  # held until then alone: it may lie on the GPU
        if not self._wants(trainer, dataloader_idx):
            return
        images = None
        where = "the validation images" + (f" of loader {dataloader_idx}" if dataloader_idx else "")
        if begun is not None and begun.batch is batch:
            images = begun.images
            batch = {**begun.held, **batch} if begun.held else batch
        images = self._images(batch, where) if images is None else images
        if images is None or not len(images):
            return
        self._met, ours = True, _is_ours(trainer, batch)
        if not ours:
            self.image_range.look(images)
        taken = images[: self._room(trainer, dataloader_idx)]
        if len(taken):
            taken = taken.cpu().float() if ours else self.image_range.to_unit(taken, where)
            part = self._from_batch(module, batch, taken, len(images), dataloader_idx)
            if not isinstance(module, DiffusionModule):
                self._inputs.check(part.images, part.labels, where)
            if not trainer.sanity_checking:
                self._collected.setdefault(dataloader_idx, []).append(part)

    def _room(self, trainer: Trainer, dataloader_idx: int) -> int:
        """How many more queries of a loader this rank takes."""
        taken = sum(len(part.ids) for part in self._collected.get(dataloader_idx, []))
        return max(0, -(-self.most // trainer.world_size) - taken)

    def _wants(self, trainer: Trainer, dataloader_idx: int) -> bool:
        """Whether a batch is to be looked at: for queries, or to tell the range of images."""
        wanted = self._room(trainer, dataloader_idx) > 0 or self.image_range.ambiguous is True
        return self._fixed is None and wanted

    def gathered(self, ranks: Ranks) -> Collected:
        """The queries of all ranks and loaders, each once, on every rank.

        Raises:
            QueryError: There are none, all lie in [0, 1] where the range is wider, or two have one id.
        """
        if self._fixed is not None:
            fixed, none = self._fixed, torch.zeros(len(self._fixed), dtype=torch.bool)
            return Collected(fixed.ids, fixed.inputs, fixed.labels, none)
        mine = {loader: distinct(parts) for loader, parts in self._collected.items()}
        everyone = ranks.all_gather((mine, self.image_range.ambiguous))
        self.image_range.refuse_ambiguous("the validation images", [ambiguous for _, ambiguous in everyone])
        loaders = sorted({loader for theirs, _ in everyone for loader in theirs})
        if not loaders:
            raise nothing_to_score("no image in any validation batch")
        hands = [dealt([theirs[loader] for theirs, _ in everyone if loader in theirs]) for loader in loaders]
        return evenly(hands, self.most)

    def conditional(self, module: LightningModule) -> bool:
        """Whether the module's network takes class labels."""
        return module.conditional if isinstance(module, DiffusionModule) else self.label_key is not None

    def _found(self, batch: Any) -> Tensor | None:
        """The images of a batch, where it has some."""
        try:
            return _four_axes(batch if isinstance(batch, Tensor) else entry(batch, self.image_key))
        except LookupError:
            return None

    def _images(self, batch: Any, where: str) -> Tensor | None:
        """The images of a batch; None where a loader that is used up gives None in place of one."""
        if (images := self._found(batch)) is not None:
            return images
        try:
            found = batch if isinstance(batch, Tensor) else entry(batch, self.image_key)
        except LookupError:
            found = ()
        if found is None and self._met:
            return None
        fitting = [path for path, value in entries(batch) if _four_axes(value) is not None]
        fix = f"pass {' or '.join(f'image_key={as_argument(path)}' for path in fitting)}"
        other = as_tensor(found)
        if other is not None and other.dim() == 3:
            fix = "add the axis of the channels in the data: images.unsqueeze(1)"
        elif not fitting or isinstance(batch, Tensor):
            fix = "let the data give such a tensor, or pass queries=FOLDER to score pictures of a folder"
        raise ConfigError(
            f"{where}: the batch has no images at image_key={self.image_key!r}",
            found=described(batch),
            expected="a tensor [batch, channels, height, width]",
            fix=fix,
        )

    def _labels(self, batch: Any, key: Key, count: int) -> Tensor:
        """``[count]`` int64."""
        try:
            found = entry(batch, key)
        except LookupError:
            found = None
        labels, other = _whole_numbers(found, count), as_tensor(found)
        if labels is not None:
            return labels
        fitting = [path for path, value in entries(batch) if _whole_numbers(value, count) is not None]
        fix = f"pass {' or '.join(f'label_key={as_argument(path)}' for path in fitting)}"
        if other is not None and len(other) == count:
            fix = f"convert them in the data: labels.{'long()' if other.dim() == 1 else 'argmax(dim=1)'}"
        elif not fitting:
            fix = "let the data give the number of each sample's class"
        raise ConfigError(
            f"the validation batch has no class labels at label_key={key!r}",
            found=described(batch),
            expected=f"[{count}] whole numbers",
            fix=fix,
        )

    def _from_batch(
        self, module: LightningModule, batch: Any, images: Tensor, count: int, dataloader_idx: int
    ) -> Collected:
        """The first queries of a batch of ``count`` samples, and which of them the student forgets."""
        room, own = len(images), torch.zeros(len(images), dtype=torch.bool)
        if isinstance(module, UnlearnModule):
            own = module.is_forget(batch)[:room].cpu()
        labels = None
        if self.conditional(module):
            labels = self._labels(batch, "label" if self.label_key is None else self.label_key, count)[:room]
        # Every loader counts its samples from zero.
        loader = f"{dataloader_idx}/" if dataloader_idx else ""
        ids = [
            hashlib.sha256(image.numpy().tobytes()).hexdigest()[:16] if name is None else f"{loader}{name}"
            for name, image in zip(names(batch, _INDEX, count), images, strict=False)
        ]
        return Collected(tuple(ids), images, labels, own)

    def _read(self, path: str | Path, trainer: Trainer, module: LightningModule) -> Queries:
        """The fixed queries, as the model takes them; without data of ours, as its configuration says."""
        data, conditional = data_of(trainer), self.conditional(module)
        if data is not None:
            return data.as_queries(load_queries(path, data.image_shape), conditional)
        channels, height, width = picture_shape(path)
        channels = self._inputs.channels or channels
        if channels not in (1, 3):
            raise QueryError(
                f"a network of {channels} channels takes no pictures",
                found=f"queries={str(path)!r}",
                expected="a network for gray or RGB pictures",
                fix="leave queries out: then the images of the validation batches are scored",
            )
        queries = load_queries(path, (channels, *(self._inputs.size or (height, width))))
        return with_labels(queries, conditional, self._inputs.classes or sys.maxsize)


def _is_ours(trainer: Trainer, batch: Any) -> bool:
    """Whether a batch is of our data, in [-1, 1] or latents; a trainer may hold a datamodule of before."""
    data = data_of(trainer)
    if data is None or not isinstance(batch, Mapping):
        return False
    return data.batch_keys.get("groups", "groups") in batch


def _four_axes(value: Any) -> Tensor | None:
    """``[batch, channels, height, width]``, where a value is that."""
    images = as_tensor(value)
    return None if images is None or images.dim() != 4 or images.is_complex() else images


def _whole_numbers(value: Any, count: int) -> Tensor | None:
    """``[count]`` int64 on the CPU, where a value is ``[count]`` or ``[count, 1]`` whole numbers."""
    numbers = as_tensor(value)
    if numbers is None or numbers.is_floating_point() or numbers.is_complex():
        return None
    if tuple(numbers.shape) not in ((count,), (count, 1)):
        return None
    return numbers.reshape(count).to("cpu", torch.int64)


def nothing_to_score(found: str) -> QueryError:
    """The error of a validation that brings no query."""
    return QueryError(
        "there is nothing to score",
        found=found,
        expected="a validation loader with at least one batch",
        fix="pass val_dataloaders, also for fixed queries, or leave ELBOAttributionCallback out",
    )


def data_of(trainer: Trainer) -> GroupDataModule | None:
    """The trainer's data, if it is ours; while unlearning, that of all groups."""
    data: Any = getattr(trainer, "datamodule", None)
    data = data.parent if isinstance(data, UnlearnDataModule) else data
    return data if isinstance(data, GroupDataModule) else None


def grouping_of(trainer: Trainer) -> Grouping | None:
    """Which samples belong to which groups, if the trainer's data knows."""
    return getattr(getattr(trainer, "datamodule", None), "grouping", None)
