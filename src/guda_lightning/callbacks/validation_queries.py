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
)
from guda_lightning.callbacks.draw import Draw, Lots
from guda_lightning.callbacks.image_range import ImageRange
from guda_lightning.callbacks.network_inputs import NetworkInputs
from guda_lightning.callbacks.our_data import data_of, groups_of, is_ours, names_of, noise_keys_of
from guda_lightning.data import load_queries
from guda_lightning.data.gathering import Collected
from guda_lightning.data.queries import with_labels
from guda_lightning.data.query_folder import picture_shape
from guda_lightning.diffusion import DiffusionModule
from guda_lightning.distributed.ranks import Ranks
from guda_lightning.errors import ConfigError, QueryError
from guda_lightning.types import Queries
from guda_lightning.unlearning import UnlearnModule


class _Begun(NamedTuple):
    """What a batch held before a step had it."""

    batch: Any
    held: dict[Any, Any]  # of a dictionary
    images: Tensor | None  # those that are taken
    lots: Lots
    samples: int  # of the batch


@dataclass
class ValidationQueries:
    """Collects queries batch by batch.

    Attributes:
        path: An image or a folder of images to take each time; None takes the validation batches.
        draw: Which samples of the validation batches to take, over all ranks and loaders.
        image_key: Key, position or dotted path of the images in a batch.
        label_key: The same of the class labels; None for a network without them.
        group_key: The same of the group that each sample belongs to; None where the batches do not say.
        image_range: The values that the images of a batch have.
    """

    path: str | Path | None
    draw: Draw
    image_key: Key
    label_key: Key | None
    group_key: Key | None
    image_range: ImageRange
    _begun: _Begun | None = field(default=None, init=False)
    _fixed: Queries | None = field(default=None, init=False)

    def start(self, trainer: Trainer, module: LightningModule, inputs: NetworkInputs) -> None:
        """Forget the batches of the last validation, and read the fixed queries, if there are any.

        Raises:
            QueryError: The fixed queries cannot be read, or do not fit the network.
            ConfigError: The network takes labels that the batches are not asked for, or none.
        """
        self._inputs, self._met = inputs, False
        self.draw.start(trainer)
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
        if self._fixed is None:
            images, held = self._found(batch), dict(batch) if isinstance(batch, Mapping) else {}
            self._begun = self._taken(trainer, batch, held, images, dataloader_idx)

    def add(self, trainer: Trainer, module: LightningModule, batch: Any, dataloader_idx: int) -> None:
        """Collect what was drawn of a batch; where queries are fixed, it is not looked at.

        Raises:
            ConfigError: There are no images at ``image_key``, no labels at ``label_key``, or the network
                cannot be called on them.
            QueryError: They are not in the stated range, or do not fit the network.
        """
        begun, self._begun = self._begun, None  # held until then alone: it may lie on the GPU
        if self._fixed is not None:
            return
        where = "the validation images" + (f" of loader {dataloader_idx}" if dataloader_idx else "")
        if begun is None or begun.batch is not batch:
            begun = None
        elif begun.held:
            batch = {**begun.held, **batch}
        if begun is None or begun.images is None:
            begun = self._taken(trainer, batch, {}, self._images(batch, where), dataloader_idx)
        if begun.images is None or not begun.samples:
            return
        self._met = True
        self.draw.pass_by(begun.samples, dataloader_idx)
        if not len(begun.images):
            return
        ours = is_ours(trainer, batch)
        images = begun.images.cpu().float() if ours else self.image_range.to_unit(begun.images, where)
        part = self._from_batch(trainer, module, batch, begun._replace(images=images), dataloader_idx)
        if not isinstance(module, DiffusionModule):
            self._inputs.check(part.images, part.labels, where)
        if not trainer.sanity_checking:
            self.draw.take(part, dataloader_idx)

    def _taken(
        self, trainer: Trainer, batch: Any, held: dict[Any, Any], images: Tensor | None, dataloader_idx: int
    ) -> _Begun:
        """The images of a batch that are drawn, copied; all of them are looked at for their range."""
        if images is None:
            return _Begun(batch, held, None, Lots((), (), ()), 0)
        if not is_ours(trainer, batch):
            self.image_range.look(images)
        lots = self.draw.lots(trainer, names_of(trainer, batch, len(images)), dataloader_idx)
        return _Begun(batch, held, images[list(lots.rows)], lots, len(images))

    def gathered(self, trainer: Trainer, ranks: Ranks) -> tuple[Collected, int | None]:
        """The queries of all ranks and loaders, each once, on every rank, and of how many they were drawn.

        Of how many is None where nobody knows.

        Raises:
            QueryError: There are none, all lie in [0, 1] where the range is wider, or two have one id.
        """
        if self._fixed is not None:
            return Collected.of(self._fixed), len(self._fixed)
        ambiguous = ranks.all_gather(self.image_range.ambiguous)
        self.image_range.refuse_ambiguous("the validation images", ambiguous)
        found = self.draw.gathered(trainer)
        if found is None:
            raise nothing_to_score("no image in any validation batch")
        return found

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
        self, trainer: Trainer, module: LightningModule, batch: Any, taken: _Begun, dataloader_idx: int
    ) -> Collected:
        """What is drawn of a batch: names, labels, groups, and which of it the student forgets."""
        assert taken.images is not None
        rows, own = list(taken.lots.rows), torch.zeros(len(taken.lots.rows), dtype=torch.bool)
        if isinstance(module, UnlearnModule):
            own = module.is_forget(batch)[rows].cpu()
        labels = None
        if self.conditional(module):
            labels = self._labels(batch, "label" if self.label_key is None else self.label_key, taken.samples)
            labels = labels[rows]
        # Every loader counts its samples from zero.
        loader = f"{dataloader_idx}/" if dataloader_idx else ""
        called = names_of(trainer, batch, taken.samples)
        groups = groups_of(trainer, batch, self.group_key, taken.samples)
        ids, titles = [], []
        for row, place, image in zip(rows, taken.lots.places, taken.images, strict=True):
            name = called[row]
            pixels = hashlib.sha256(image.numpy().tobytes()).hexdigest()[:16]
            ids.append(pixels if name is None else f"{loader}{name}")
            titles.append(f"image {loader}{place} ({pixels})" if name is None else ids[-1])
        in_groups = tuple(groups[row] for row in rows)
        places, lots = taken.lots.places, taken.lots.values
        keys = noise_keys_of(trainer, batch, rows, taken.images, taken.samples)
        return Collected(tuple(ids), tuple(titles), taken.images, labels, own, in_groups, places, lots, keys)

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
