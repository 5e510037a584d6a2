"""Properties of whole sets of samples: the mean of a function of one image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, is_dataclass
from typing import ClassVar

import torch
from torch import Tensor

from guda_lightning.errors import ConfigError, NumericsError
from guda_lightning.storage.files import sha256_json


class SetProperty(ABC):
    """A number for every image, whose mean over many samples of a model is a property of that model.

    A new one is a frozen dataclass with a name and one method; its class and its fields, which are JSON
    values, identify it: what is measured is taken for done until one of them changes.

    Example:
        >>> @dataclass(frozen=True)
        ... class Ink(SetProperty):
        ...     name = "ink"
        ...     above: float = 0.0
        ...
        ...     def __call__(self, images: Tensor) -> Tensor:
        ...         return (images > self.above).float().mean(dim=(1, 2, 3))
        >>> Ink()(torch.ones(2, 1, 8, 8))
        tensor([1., 1.])

    Attributes:
        name: Of tables and their files.
    """

    name: ClassVar[str]

    @abstractmethod
    def __call__(self, images: Tensor) -> Tensor:
        """Measure some images, each by itself.

        Args:
            images: ``[images, channels, height, width]`` float32 in [-1, 1], on the CPU.

        Returns:
            ``[images]``.
        """

    @property
    def hash(self) -> str:
        """What identifies its numbers: its class and its fields."""
        kind = type(self)
        names: list[str] = [one.name for one in fields(self)] if is_dataclass(self) else []
        options = {name: getattr(self, name) for name in names}
        return sha256_json([f"{kind.__module__}.{kind.__qualname__}", options])

    def measured(self, images: Tensor) -> Tensor:
        """Measure images, and refuse what is no property of them.

        Args:
            images: ``[images, channels, height, width]``.

        Returns:
            ``[images]`` float64.

        Raises:
            ConfigError: It gives something else than one number for each image.
            NumericsError: A number is not finite.
        """
        with torch.no_grad():
            values = self(images)
        if not isinstance(values, Tensor) or values.shape != images.shape[:1]:
            raise ConfigError(
                f"the property {self.name} does not measure single images",
                found=f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__,
                expected=f"a tensor of shape ({len(images)},): one number an image",
                fix=f"return one number for each image from {type(self).__name__}.__call__",
            )
        if not values.isfinite().all():
            raise NumericsError(
                f"the property {self.name} of an image is not finite",
                found=float(values[~values.isfinite()][0]),
                expected="finite numbers",
                fix=f"look at {type(self).__name__}.__call__ where images are black, white or flat",
            )
        return values.double().cpu()


@dataclass(frozen=True)
class Brightness(SetProperty):
    """The mean of an image's pixels, from 0 for black to 1 for white."""

    name = "brightness"

    def __call__(self, images: Tensor) -> Tensor:
        """``(1 + mean) / 2`` of each image."""
        return (1 + images.double().mean(dim=(1, 2, 3))) / 2


@dataclass(frozen=True)
class Contrast(SetProperty):
    """The standard deviation of an image's pixels: 0 of a flat one, 1 of one half black and half white."""

    name = "contrast"

    def __call__(self, images: Tensor) -> Tensor:
        """Standard deviation of each image over channels and pixels."""
        return images.double().std(dim=(1, 2, 3), correction=0)
