"""``GroupDataModule``: images, labels and groups for every stage."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from guda_lightning.data.batches import Batch, Samples, checked_batch_keys, make_loader
from guda_lightning.data.forget_retain import UnlearnDataModule
from guda_lightning.data.grouping import Grouping, Indices
from guda_lightning.data.images import as_input, to_unit
from guda_lightning.data.loaded import Listed, grouping_of, limited, other_size
from guda_lightning.data.queries import with_labels
from guda_lightning.data.sources.source import ImageTable, Source
from guda_lightning.errors import GroupError, QueryError, check_range
from guda_lightning.storage.data_identity import DataIdentity
from guda_lightning.types import Queries


class GroupDataModule(LightningDataModule):
    """Training images held in memory, with the groups that each one belongs to.

    A batch is ``{"image": float32 [batch, channels, height, width] in [-1, 1], "label": int64 [batch],
    "index": int64 [batch], "groups": bool [batch, groups]}``, without ``label`` when the source has none.
    Order and flips are a pure function of (seed, epoch), so that a resumed run sees the same images.

    Args:
        source: Where the images come from.
        batch_size: Images per step and process.
        image_size: Side in pixels: crops to a centred square and resizes (Lanczos). None: what the network
            says that it takes (``take_size``), and nothing is enlarged; else all have one size.
        channels: 1 for gray, 3 for RGB. None: gray when every image is, else RGB.
        horizontal_flip: Whether to mirror half of the images at random.
        groups: Metadata file that assigns groups: .csv, .tsv or .jsonl, columns ``id`` and ``group`` (several
            groups as several rows, ``a;b`` or a JSON list). None: the source's labels are the groups.
        probe_per_group: Fixed training samples of every group in the validation set.
        seed: Seed of order, flips, probe set and limit.
        limit: Number of samples to draw at random from the source. None: all.
        batch_keys: What a LightningModule of your own calls the entries of a batch, e.g.
            ``{"image": "images"}``. None: ``image``, ``label``, ``index`` and ``groups``.

    Raises:
        ConfigError: A number is out of range, or ``batch_keys`` are invalid.
    """

    def __init__(
        self,
        source: Source,
        batch_size: int = 64,
        image_size: int | None = None,
        channels: Literal[1, 3] | None = None,
        horizontal_flip: bool = False,
        groups: str | None = None,
        probe_per_group: int = 2,
        seed: int = 0,
        limit: int | None = None,
        batch_keys: dict[str, str] | None = None,
    ) -> None:
        super().__init__()
        counts = {"batch_size": batch_size, "image_size": image_size, "limit": limit}
        for name, value in {**counts, "probe_per_group": probe_per_group}.items():
            check_range(f"data.{name}", value, ge=1, fix=f"raise data.{name}")
        check_range("data.seed", seed, ge=0, fix="raise data.seed")
        self.source = source
        self.batch_size = batch_size
        self.image_size = image_size
        self.channels = channels
        self.horizontal_flip = horizontal_flip
        self.groups = groups
        self.probe_per_group = probe_per_group
        self.seed = seed
        self.limit = limit
        self.batch_keys = checked_batch_keys(batch_keys or {})
        self._network_size: tuple[int, int] | None = None
        self._keeps_size = False
        self._removed: tuple[str, ...] = ()
        self._order_seed = seed

    def setup(self, stage: str | None = None) -> None:
        """Load everything into memory, once; reading any property does so too.

        Images are of the ``network_size`` of the trainer's module, where it has one, as a ``DiffusionModule``
        does.

        Args:
            stage: Not used: all stages share the images.

        Raises:
            DataError: Images, labels or groups cannot be read, or are of another size than the network takes.
        """
        module = getattr(self.trainer, "lightning_module", None)
        self.take_size(getattr(module, "network_size", None))
        self._read_once  # noqa: B018

    def take_size(self, sample_size: tuple[int, int] | None) -> None:
        """Be of the size that a network takes; whatever brings data and network together calls this first.

        Args:
            sample_size: Height and width that the network says it takes; None where it says nothing.

        Raises:
            DataError: ``image_size`` is another, or the images are read already and have another.
        """
        if sample_size is None or self._keeps_size:
            return
        size = self.input_shape[1:] if "_read_once" in vars(self) else self._size
        if size is not None and size != sample_size:
            raise other_size(size, sample_size, given=self.image_size is not None)
        self._network_size = sample_size

    def keep_size(self) -> None:
        """Stay of one's own size, whatever networks say: earlier versions trained full models on that."""
        self._keeps_size = True

    @cached_property
    def _listed(self) -> Listed:
        table = self.source.load()
        grouping = grouping_of(table, self.groups)
        rows = np.arange(len(table.ids))
        if self.limit is not None and self.limit < len(rows):
            rows = np.sort(np.random.default_rng(self.seed).permutation(rows)[: self.limit])
            grouping = limited(grouping, rows)
        return Listed(
            ids=tuple(table.ids[row] for row in rows),
            grouping=grouping,
            membership=torch.from_numpy(grouping.membership()),
            table=table,
            rows=rows,
        )

    @cached_property
    def _read_once(self) -> tuple[Tensor, Tensor | None]:
        return self._read(self._listed.table, self._listed.rows)

    def _read(self, table: ImageTable, rows: Indices) -> tuple[Tensor, Tensor | None]:
        """What the model takes, ``[samples, ...]``, and the number of each sample's condition."""
        labels = None
        if table.labels is not None:
            classes = {name: number for number, name in enumerate(table.label_names)}
            labels = torch.tensor([classes[table.labels[row]] for row in rows])
        enlarge = self.image_size is not None
        return table.pixels(rows, size=self._size, channels=self.channels, enlarge=enlarge), labels

    @property
    def _size(self) -> tuple[int, int] | None:
        """Height and width that images are brought to; None: they stay as they are."""
        return self._network_size if self.image_size is None else (self.image_size, self.image_size)

    @property
    def ids(self) -> tuple[str, ...]:
        """One name per sample; ``index`` in a batch counts these."""
        return self._listed.ids

    @property
    def inputs(self) -> Tensor:
        """``[samples, ...]`` what the model takes, those of removed groups included: here the images."""
        return self._read_once[0]

    @property
    def images(self) -> Tensor:
        """``[samples, channels, height, width]`` uint8, those of removed groups included."""
        return self._read_once[0]

    @property
    def labels(self) -> Tensor | None:
        """``[samples]`` int64 class indices, or None."""
        return self._read_once[1]

    @property
    def grouping(self) -> Grouping:
        """Who belongs to which groups, those of removed groups included."""
        return self._listed.grouping

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width of a picture."""
        return self.input_shape

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height, width of what the model takes."""
        channels, height, width = self.inputs.shape[1:]
        return channels, height, width

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 when the source has no labels."""
        return len(self._listed.table.label_names)

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the labels are called; empty where the source has none, or where they are prompts."""
        return self._listed.table.label_names if self.prompts is None else ()

    @property
    def prompts(self) -> Callable[[Tensor], Mapping[str, Tensor]] | None:
        """Embeddings of prompts by their numbers, where these are the labels; None: labels are classes."""
        return None

    @property
    def sample_prompts(self) -> list[str]:
        """The prompt of every sample; none where the model takes no prompts."""
        return []

    @property
    def hash(self) -> str:
        """Identity of the training data: ids and what any model sees (sha256), so without class labels."""
        digest = hashlib.sha256("\n".join(self.ids).encode())
        digest.update(self.inputs.numpy().tobytes())
        return digest.hexdigest()

    @property
    def labels_hash(self) -> str | None:
        """Identity of the class labels, which a conditional model alone sees (sha256); None: no labels."""
        if self.prompts is not None or self.labels is None:
            return None
        return hashlib.sha256(self.labels.numpy().tobytes()).hexdigest()

    @property
    def identity(self) -> DataIdentity:
        """What records keep of all this."""
        return DataIdentity(self.input_shape, self.hash, self.grouping.hash, self.labels_hash)

    @property
    def sample_hashes(self) -> list[str]:
        """Identity of each training sample: its id and what the model sees of it (sha256)."""
        return [
            hashlib.sha256(f"{name}\n".encode() + sample.numpy().tobytes()).hexdigest()
            for name, sample in zip(self.ids, self.inputs, strict=True)
        ]

    @property
    def removed(self) -> tuple[str, ...]:
        """Names of the groups that this view leaves out of training."""
        return self._removed

    @property
    def kept(self) -> Indices:
        """Indices of the samples trained on: all of them, or those that ``without`` leaves."""
        if self._removed:
            return self.grouping.retain(self._removed)
        return np.arange(self.grouping.num_samples)

    @property
    def probe(self) -> Indices:
        """Indices of the probe set: ``probe_per_group`` samples of every group, sorted."""
        return np.unique(np.concatenate(list(self.picked(self.probe_per_group).values())))

    def without(self, groups: Sequence[str], seed: int | None = None) -> GroupDataModule:
        """Return the same data for retraining without some groups; the images are shared.

        The probe set, the grouping and the meaning of ``index`` stay those of all data.

        Args:
            groups: Names of the groups to leave out.
            seed: Seed of order and flips; None keeps that of all data.

        Raises:
            GroupError: An unknown or empty group, or groups that cover all samples.
        """
        self.grouping.check((*self._removed, *groups))
        self.setup()  # once for all views
        view = copy.copy(self)
        view._removed = (*self._removed, *groups)
        view._order_seed = self._order_seed if seed is None else seed
        view.trainer = None
        return view

    def regrouped(self, grouping: Grouping) -> GroupDataModule:
        """Return the same data under other groups; the images are shared.

        Raises:
            GroupError: The grouping is of another number of samples.
        """
        if grouping.num_samples != len(self.ids):
            raise GroupError(
                "the groups are those of other training data",
                found=f"groups over {grouping.num_samples} samples",
                expected=f"groups over {len(self.ids)} samples",
                fix="group the samples of this data section",
            )
        self.setup()  # once for all views
        view = copy.copy(self)
        # Takes the place of what the cached property would load.
        view.__dict__["_listed"] = replace(
            self._listed, grouping=grouping, membership=torch.from_numpy(grouping.membership())
        )
        view.trainer = None
        return view

    def unlearning(self, groups: Sequence[str]) -> UnlearnDataModule:
        """Return forget and retain batches in pairs; the images are shared.

        Raises:
            GroupError: An unknown or empty group, or groups that cover all samples.
        """
        return UnlearnDataModule(self, groups)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled batches; an incomplete last one is left out."""
        return self.loader(self.trainer, self.kept, train=True, batch_keys=self.batch_keys)

    def val_dataloader(self) -> DataLoader[Batch]:
        """The probe set, in order and never mirrored."""
        return self.loader(self.trainer, self.probe, train=False, batch_keys=self.batch_keys)

    def examples(self, count: int = 4) -> dict[str, Tensor]:
        """Return up to ``count`` images of every group, always the same: ``[n, C, H, W]`` in [-1, 1]."""
        return {name: to_unit(self.pixels(indices)) for name, indices in self.picked(count).items()}

    def pixels(self, indices: Indices) -> Tensor:
        """Return some of the images: ``[images, channels, height, width]`` uint8."""
        return self.images[indices]

    def noise_keys(self, indices: Indices) -> tuple[str, ...] | None:
        """What keys the noise of some samples, as of queries; None where that is what the model takes."""
        return None

    def small_images(self) -> Tensor:
        """Return all images at a size that they can be compared at: ``[samples, channels, h, w]`` uint8."""
        return self.images

    def seen_inputs(self, indices: Indices) -> Tensor:
        """Return what a model trained on these samples saw: ``[samples, ...]`` float32.

        With ``horizontal_flip`` the mirrored copies follow the samples themselves.
        """
        return self._mirrored(as_input(self.inputs[indices]))

    def seen_images(self, indices: Indices) -> Tensor:
        """Return the pictures of ``seen_inputs``: ``[images, channels, height, width]`` in [-1, 1]."""
        return self._mirrored(to_unit(self.pixels(indices)))

    def _mirrored(self, images: Tensor) -> Tensor:
        return torch.cat([images, images.flip(-1)]) if self.horizontal_flip else images

    def as_queries(self, queries: Queries, conditional: bool) -> Queries:
        """Give queries what the model takes besides their images: class labels, for a conditional model.

        Raises:
            QueryError: They have no labels, or labels that the model has no class for.
        """
        return self.conditioned(queries, conditional)

    def conditioned(self, queries: Queries, conditional: bool) -> Queries:
        """Give queries the conditions that identify them, without encoding anything.

        Raises:
            QueryError: They have no labels, or labels that the model has no class for.
        """
        return with_labels(queries, conditional, self.num_classes)

    def forgetting_prompts(self) -> AbstractContextManager[None]:
        """Forget the prompts that are first met inside the block when it ends, and their numbers."""
        return nullcontext()

    def drawn(self, num: int, conditional: bool, prompts: Sequence[str] | None = None) -> Queries:
        """Give the conditions to draw ``num`` samples under: the classes in turn; images are still empty.

        Raises:
            QueryError: There are prompts, and the model takes none.
        """
        if prompts is not None:
            raise QueryError(
                "this model takes no prompts",
                found=f"{len(prompts)} prompts",
                expected="a text-to-image model, with a LatentDataModule",
                fix="leave out --prompts",
            )
        ids = tuple(f"sample-{index}" for index in range(num))
        labels = torch.arange(num) % self.num_classes if conditional else None
        return Queries(ids, torch.empty(num, 0), labels)

    def pictures(self, samples: Tensor) -> Tensor:
        """Turn what the model drew into images: ``[samples, channels, height, width]`` in [-1, 1]."""
        return samples.clamp(-1, 1)

    def loader(
        self,
        trainer: Trainer | None,
        indices: Indices,
        *,
        train: bool,
        batch_keys: Mapping[str, str] | None = None,
        batch_size: int | None = None,
    ) -> DataLoader[Batch]:
        """Make a loader over some samples for one of the trainer's processes.

        Batches are of the full model's size unless another one is given.
        """
        return make_loader(
            Samples(*self._read_once, self._listed.membership, indices, batch_keys or {}),
            trainer,
            train=train,
            mirror=train and self.horizontal_flip,
            batch_size=batch_size or self.batch_size,
            seed=self._order_seed,
        )

    def picked(self, count: int) -> dict[str, Indices]:
        """Indices of up to ``count`` samples of every group, always the same; more add to fewer."""
        picked = {}
        for column, name in enumerate(self.grouping.names):
            members = np.flatnonzero(self._listed.membership[:, column].numpy())
            order = np.random.default_rng([self.seed, column]).permutation(len(members))
            picked[name] = members[np.sort(order[:count])]
        return picked
