"""What every source yields: images with ids and, perhaps, labels and prompts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from guda_lightning.data.images import Channels, UnreadableImage, decoded, unreadable
from guda_lightning.errors import DataError
from guda_lightning.progress_bar import progress_bar

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class ImageTable:
    """Training images, decoded when they are read.

    Attributes:
        ids: One stable, unique name per sample.
        read: Opens the picture at a position of ``ids``.
        labels: One label name per sample, or None without labels.
        label_names: All label names in the order of the class indices, also those without samples.
        prompts: One text per sample for a text-to-image model, or None without texts.

    Raises:
        DataError: No samples, repeated ids, or labels or prompts that do not fit.
    """

    ids: tuple[str, ...]
    read: Callable[[int], Image]
    labels: tuple[str, ...] | None = None
    label_names: tuple[str, ...] = ()
    prompts: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not self.ids:
            raise DataError(
                "the source has no samples",
                found="0 images",
                expected="at least 1",
                fix="check its path or split",
            )
        if len(set(self.ids)) < len(self.ids):
            repeated = next(name for name, count in Counter(self.ids).items() if count > 1)
            raise DataError(
                f"two samples have the id '{repeated}'",
                found=f"{len(set(self.ids))} different ids for {len(self.ids)} samples",
                expected="one id per sample",
                fix="name a column with unique ids, or none to number the rows",
            )
        if self.labels is not None and (
            len(self.labels) != len(self.ids) or not set(self.labels) <= set(self.label_names)
        ):
            raise DataError(
                "the labels do not fit the samples",
                found=f"{len(self.labels)} labels, without a name: "
                f"{sorted(set(self.labels) - set(self.label_names))[:3]}",
                expected=f"{len(self.ids)} labels out of {len(self.label_names)} names",
                fix="give every sample a label and every label a name",
            )
        if self.prompts is not None:
            texts = sum(bool(prompt.strip()) for prompt in self.prompts)
            if not texts == len(self.prompts) == len(self.ids):
                raise DataError(
                    "the prompts do not fit the samples",
                    found=f"{len(self.prompts)} prompts, {len(self.prompts) - texts} of them empty",
                    expected=f"{len(self.ids)} prompts, none of them empty",
                    fix="give every sample a prompt",
                )

    def pixels(
        self,
        indices: Sequence[int] | NDArray[np.int64] | None = None,
        *,
        size: tuple[int, int] | None = None,
        channels: Channels | None = None,
        rest: Sequence[int] | NDArray[np.int64] = (),
        enlarge: bool = True,
    ) -> Tensor:
        """Decode images into memory.

        Args:
            indices: Positions of the samples; default all.
            size: Height and width; other images are cropped to this shape and resized (Lanczos).
            channels: 1 for gray, 3 for RGB; default gray when every image is, else RGB.
            rest: Positions of further samples: once an image is unreadable, the error also names theirs.
            enlarge: Whether images may be smaller than ``size``.

        Returns:
            ``[samples, channels, height, width]`` uint8.

        Raises:
            DataError: Images are unreadable, too small, or sizes differ and no size was given.
        """
        order = range(len(self.ids)) if indices is None else [int(index) for index in indices]
        arrays: list[NDArray[np.uint8]] = []
        with progress_bar("read images", "images", len(order), delay=2) as bar:
            for position, index in enumerate(order):
                try:
                    array = self._decoded(index, size, channels, enlarge)
                except UnreadableImage as error:
                    later = [*order[position:], *(int(index) for index in rest)]
                    raise unreadable(
                        DataError,
                        error,
                        lambda index: self._decoded(index, size, channels, enlarge),
                        later,
                        f"the image '{error.name}'",
                        "images",
                    ) from error
                if arrays and array.shape[1:] != arrays[0].shape[1:]:
                    raise DataError(
                        "the images differ in size",
                        found=f"'{self.ids[order[0]]}' is {_size(arrays[0])}, "
                        f"'{self.ids[index]}' is {_size(array)}",
                        expected="one width and height",
                        fix="set data.image_size, which crops to a square and resizes",
                    )
                arrays.append(array)
                bar.update()
        depth = max(len(array) for array in arrays)
        pixels = torch.empty((len(arrays), depth, *arrays[0].shape[1:]), dtype=torch.uint8)
        for row, array in zip(pixels.numpy(), arrays, strict=True):
            row[:] = array  # a gray image among coloured ones is repeated over the channels
        return pixels

    def _decoded(
        self, index: int, size: tuple[int, int] | None, channels: Channels | None, enlarge: bool
    ) -> NDArray[np.uint8]:
        shape = size and size[::-1]
        return decoded(self.ids[index], lambda: self.read(index), shape, channels, enlarge=enlarge)


class Source(ABC):
    """Anything that yields training images with ids and, perhaps, labels and prompts."""

    @abstractmethod
    def load(self) -> ImageTable:
        """List the samples, without decoding their pixels.

        Raises:
            DataError: The data cannot be found or read.
        """


def _size(array: NDArray[np.uint8]) -> str:
    return f"{array.shape[2]} x {array.shape[1]} pixels"
