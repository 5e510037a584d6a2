"""``LatentDataModule``: images and prompts as a latent text-to-image model takes them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property, partial
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from guda_lightning.data import GroupDataModule
from guda_lightning.data.grouping import Indices
from guda_lightning.data.images import to_unit
from guda_lightning.data.sources.source import ImageTable, Source
from guda_lightning.errors import DataError, QueryError
from guda_lightning.latent.cache import TensorCache
from guda_lightning.latent.encoders import Encoders
from guda_lightning.latent.prompts import PromptTable
from guda_lightning.progress_bar import progress_bar
from guda_lightning.storage.files import sha256_json
from guda_lightning.storage.paths import expanded, user_path
from guda_lightning.types import Queries, content_keys

_SMALL = 64  # pixels a side: near-duplicates show, and a hundred thousand images fit into memory
_CHUNK = 256  # images or prompts a file of the cache: what an interruption loses at most


class LatentDataModule(GroupDataModule):
    """Training images as latents in memory, and prompts as the numbers of their embeddings.

    A batch is that of ``GroupDataModule``: ``image`` holds latents, ``label`` the number of the prompt. VAE
    and text encoder run once: what they make is kept on disk by the hash of what it was made from, goes on
    where it was interrupted, and is read by every later stage.

    Args:
        source: Where the images and their prompts come from.
        pretrained: The diffusers pipeline whose VAE and text encoder are used: a folder or a hub name.
        cache: Folder for latents and embeddings; None computes them again each time.
        batch_size: Images per step and process.
        image_size: Side in pixels: crops to a centred square and resizes (Lanczos). None: all have one size.
        encode_batch_size: Images or prompts that are encoded at a time; changes nothing but memory.
        groups: Metadata file that assigns groups: .csv, .tsv or .jsonl, columns ``id`` and ``group`` (several
            groups as several rows, ``a;b`` or a JSON list). None: the source's labels are the groups.
        probe_per_group: Fixed training samples of every group in the validation set.
        seed: Seed of order, probe set and limit.
        limit: Number of samples to draw at random from the source. None: all.
        batch_keys: What a LightningModule of your own calls the entries of a batch.
    """

    where_and_how: ClassVar[tuple[str, ...]] = ("cache", "encode_batch_size")

    def __init__(
        self,
        source: Source,
        pretrained: str,
        cache: str | None = None,
        batch_size: int = 4,
        image_size: int | None = None,
        encode_batch_size: int = 8,
        groups: str | None = None,
        probe_per_group: int = 2,
        seed: int = 0,
        limit: int | None = None,
        batch_keys: dict[str, str] | None = None,
    ) -> None:
        super().__init__(
            source,
            batch_size,
            image_size,
            channels=3,
            groups=groups,
            probe_per_group=probe_per_group,
            seed=seed,
            limit=limit,
            batch_keys=batch_keys,
        )
        self.encoders = Encoders(expanded(pretrained), encode_batch_size)
        self._cache = TensorCache(None if cache is None else user_path(cache))
        self._pixel_hashes: list[str] = []  # of chunks
        self._image_hashes: list[str] = []
        self._noise_keys: list[str] = []
        self._side: tuple[int, int] | None = None

    def take_size(self, sample_size: tuple[int, int] | None) -> None:
        """Stay as it is: the ``sample_size`` of a pipeline is the default of its samples, not of training."""

    @cached_property
    def prompts(self) -> PromptTable:
        """All prompts that were met so far, and their embeddings: the labels are their numbers."""
        return PromptTable(self.encoders.embeddings, self._embeddings)

    @property
    def images(self) -> Tensor:
        """``[samples, 3, height, width]`` uint8, decoded anew: they may be too many to hold."""
        return self.pixels(np.arange(len(self.ids)))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width of a picture."""
        channels, height, width = self.pixels(np.arange(1)).shape[1:]
        return channels, height, width

    @property
    def hash(self) -> str:
        """Identity of the training data: ids, pixels, prompts and the encoders (sha256).

        Not the latents: their last bits depend on how many are encoded at a time, and on what device.
        """
        self.setup()
        parts = [self.ids, self._pixel_hashes, self.sample_prompts, self.encoders.hash]
        return sha256_json(parts)

    @property
    def sample_hashes(self) -> list[str]:
        """Identity of each training sample: id, pixels, prompt and the encoders (sha256)."""
        self.setup()
        parts = zip(self.ids, self._image_hashes, self.sample_prompts, strict=True)
        return [sha256_json([*of_one, self.encoders.hash]) for of_one in parts]

    @property
    def sample_prompts(self) -> list[str]:
        """The prompt of every sample."""
        labels = self.labels
        return [] if labels is None else [self.prompts.texts[number] for number in labels.tolist()]

    def pixels(self, indices: Indices) -> Tensor:
        """Return some of the images: ``[images, 3, height, width]`` uint8, decoded anew."""
        rows = self._listed.rows[indices]
        return self._listed.table.pixels(rows, size=self._size, channels=self.channels)

    def noise_keys(self, indices: Indices) -> tuple[str, ...]:
        """What keys the noise of some samples: their pictures, as the last bits of latents vary."""
        self.setup()
        return tuple(self._noise_keys[index] for index in indices)

    def small_images(self) -> Tensor:
        """Return all images, at most 64 pixels a side: ``[samples, 3, h, w]`` uint8, decoded anew."""
        side = min(_SMALL, *self.image_shape[1:])
        return self._listed.table.pixels(self._listed.rows, size=(side, side), channels=self.channels)

    def as_queries(self, queries: Queries, conditional: bool) -> Queries:
        """Encode queries: latents of their images and numbers of their prompts.

        Raises:
            QueryError: They have no prompts.
        """
        conditioned = self.conditioned(queries, conditional)
        labels = self.prompts.numbers(conditioned.prompts or ())
        return replace(conditioned, labels=labels, latents=self.encoders.latents(conditioned.images))

    def conditioned(self, queries: Queries, conditional: bool) -> Queries:
        """Give queries the identity of the encoders, without encoding anything.

        Raises:
            QueryError: They have no prompts.
        """
        if queries.prompts is None:
            raise QueryError(
                "a text-to-image model cannot score queries without their prompts",
                found=f"{len(queries)} queries without prompts",
                expected="a metadata.jsonl beside them with file_name and prompt on each line",
                fix="write it, or use queries that `guda sample` drew",
            )
        return replace(queries, encoders=self.encoders.hash)

    def forgetting_prompts(self) -> AbstractContextManager[None]:
        """Forget the prompts that are first met inside the block when it ends, and their numbers."""
        return self.prompts.forgetting()

    def drawn(self, num: int, conditional: bool, prompts: Sequence[str] | None = None) -> Queries:
        """Give the conditions to draw samples under: prompts in turn, or those of random training samples."""
        if prompts is None:
            order = np.random.default_rng(self.seed).permutation(len(self.ids)).tolist()
            texts = self.sample_prompts
            prompts = [texts[sample] for sample in order]
        chosen = tuple(prompts[position % len(prompts)] for position in range(num))
        return replace(super().drawn(num, False), labels=self.prompts.numbers(chosen), prompts=chosen)

    def pictures(self, samples: Tensor) -> Tensor:
        """Decode latents that the model drew: ``[samples, 3, height, width]`` in [-1, 1]."""
        return self.encoders.images(samples)

    def _read(self, table: ImageTable, rows: Indices) -> tuple[Tensor, Tensor | None]:
        if table.prompts is None:
            raise DataError(
                "the training data has no prompts",
                found=f"{len(table.ids)} images without texts",
                expected="a prompt for every image",
                fix="take PromptedFolder, Styled, or a prompt_column of Parquet or HubDataset as data.source",
            )
        self._pixel_hashes, self._image_hashes, self._noise_keys, latents = [], [], [], []
        with progress_bar("encode", "images", len(rows), delay=2) as bar:
            for start in range(0, len(rows), _CHUNK):
                chunk = rows[start : start + _CHUNK]
                rest = rows[start + _CHUNK :]
                pixels = table.pixels(chunk, size=self._size, channels=self.channels, rest=rest)
                latents.append(self._latents(pixels))
                bar.update(len(chunk))
        labels = self.prompts.numbers([table.prompts[row] for row in rows])
        return torch.cat(latents), labels

    def _latents(self, pixels: Tensor) -> Tensor:
        shown = hashlib.sha256(pixels.numpy().tobytes()).hexdigest()
        self._pixel_hashes.append(shown)
        self._noise_keys += content_keys(to_unit(pixels))
        self._image_hashes += [hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in pixels]
        key = {"encoders": self.encoders.hash, "shape": list(pixels.shape), "pixels": shown}
        self._refuse_shape(pixels)
        return self._cache.get(key, lambda: {"latents": self.encoders.latents(to_unit(pixels))})["latents"]

    def _refuse_shape(self, pixels: Tensor) -> None:
        height, width = pixels.shape[2:]
        self._side = self._side or (height, width)
        factor = self.encoders.pipeline.vae_scale_factor
        if self._side != (height, width) or height % factor or width % factor:
            raise DataError(
                "the VAE cannot encode and decode these images",
                found=f"{width} x {height} pixels, and before {self._side[1]} x {self._side[0]}",
                expected=f"one size, with sides that are multiples of {factor}",
                fix=f"set data.image_size to a multiple of {factor}",
            )

    def _embeddings(self, texts: Sequence[str]) -> dict[str, Tensor]:
        parts = []
        for start in range(0, len(texts), _CHUNK):
            chunk = list(texts[start : start + _CHUNK])
            key = {"encoders": self.encoders.hash, "texts": chunk}
            parts.append(self._cache.get(key, partial(self.encoders.embeddings, chunk)))
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
