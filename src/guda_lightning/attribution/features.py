"""Features of the training images: computed once, kept in files, and read a part at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from guda_lightning.attribution.encoders import Encoder
from guda_lightning.data import GroupDataModule
from guda_lightning.data.grouping import Indices
from guda_lightning.distributed.execution import Execution, ignore
from guda_lightning.errors import NumericsError
from guda_lightning.latent.cache import TensorCache
from guda_lightning.progress_bar import progress_bar
from guda_lightning.storage.files import sha256_json

_BATCH = 64  # pictures that an encoder sees at a time


@dataclass(frozen=True, eq=False)
class TrainingFeatures:
    """What an encoder makes of the training images, and of other pictures.

    Attributes:
        data: The training data.
        encoder: The encoder.
        images_hash: Identity of the training images.
        folder: Where features are kept; None computes them whenever they are needed.
        execution: Where to compute.
    """

    data: GroupDataModule
    encoder: Encoder
    images_hash: str
    folder: Path | None
    execution: Execution

    @property
    def files(self) -> tuple[Path, ...]:
        """Where they are kept, if anywhere: in a folder of their own, whose size and cost are theirs."""
        if self.folder is None:
            return ()
        return (self.folder / f"{self.encoder.name}-{sha256_json(self._identity)[:16]}",)

    def prepare(self, size: int) -> None:
        """Compute what is not kept yet, file by file, on rank zero.

        Args:
            size: Images a file.
        """
        if self.folder is not None:
            self.execution.ranks.on_rank_zero(lambda: self._fill(size))

    def of(self, indices: Indices, size: int) -> Tensor:
        """Features of some images of one file; with mirrored training those of the copies follow.

        Args:
            indices: Their positions, sorted, all of one file.
            size: Images a file.

        Returns:
            ``[copies · indices, dims]`` float64.
        """
        if self.folder is None:
            return self.encoded(self.data.seen_images(indices))
        start = int(indices[0]) // size * size
        found = self._file(start, size)
        return found[:, indices - start].flatten(0, 1).double()

    def encoded(self, images: Tensor, done: Callable[[int], object] = ignore) -> Tensor:
        """Features of pictures ``[pictures, channels, height, width]``, ``[pictures, dims]`` float64.

        Args:
            images: The pictures.
            done: Called with the number of pictures of every batch, for a progress bar.

        Raises:
            NumericsError: A vector is zero or not finite, and so has no direction.
        """
        parts = []
        for part in images.split(_BATCH):
            parts.append(self.encoder(part.to(self.execution.device)).cpu())
            done(len(part))
        features = torch.cat(parts).double()
        lengths = features.norm(dim=1)
        if not ((lengths > 0) & lengths.isfinite()).all():
            raise NumericsError(
                f"the features of {self.encoder.name} have no direction",
                found="a vector that is zero or not finite",
                expected="a finite vector other than zero for every picture",
                fix="look at the encoder, and at its weights",
            )
        return features

    def _fill(self, size: int) -> None:
        count, copies = len(self.data.ids), 1 + self.data.horizontal_flip
        with progress_bar("encode images", "images", copies * count, lines=True, delay=2) as bar:
            for start in range(0, count, size):
                self._file(start, size, bar.update)
                bar.update(copies * min(start + size, count) - bar.n)  # of a file that is there already

    def _file(self, start: int, size: int, done: Callable[[int], object] = ignore) -> Tensor:
        """``[copies, images, dims]`` float32, read or computed."""
        rows = np.arange(start, min(start + size, len(self.data.ids)))
        key = [*self._identity, start, len(rows)]

        def compute() -> dict[str, Tensor]:
            features = self.encoded(self.data.seen_images(rows), done).float()
            return {"features": features.unflatten(0, (-1, len(rows)))}

        return self._cache.get(key, compute)["features"]

    @property
    def _identity(self) -> list[object]:
        return [self.encoder.hash, self.images_hash, self.data.horizontal_flip]

    @cached_property
    def _cache(self) -> TensorCache:
        return TensorCache(next(iter(self.files), None))
