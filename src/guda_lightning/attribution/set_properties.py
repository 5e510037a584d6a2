"""Properties of whole sets of samples: the mean of a function of one image."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from guda_lightning.errors import ConfigError, NumericsError
from guda_lightning.storage.files import canonical_json, sha256_json


class SetProperty(ABC):
    """A number for every image, whose mean over many samples of a model is a property of that model.

    A new one is a frozen dataclass with a name and one method; its class, as it is written, and its fields,
    which are JSON values, identify it: what is measured is taken for done until one of them changes.

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
        """What identifies its numbers: its class, the source of that where there is one, and its fields.

        Raises:
            ConfigError: It has no name, holds what is no field, or has a field that is no JSON value.
        """
        kind = type(self)
        if not isinstance(getattr(self, "name", None), str):
            raise _unidentified(kind, "no name", 'name = "..." in the class', "give it a name")
        names: list[str] = [one.name for one in fields(self)] if is_dataclass(self) else []
        options = {name: getattr(self, name) for name in names}
        for name in vars(self):
            if name not in options and not isinstance(getattr(kind, name, None), cached_property):
                raise _unidentified(
                    kind, f"{name}, which is no field", "a dataclass", f"make {name} a field of a dataclass"
                )
        for name, value in options.items():
            try:
                canonical_json(value)
            except (TypeError, ValueError) as error:
                found = f"{name} of the type {type(value).__name__}: {error}"
                fix = f"make {name} text or a number, and read what it names in {kind.__name__}.__call__"
                raise _unidentified(kind, found, "fields that are JSON values", fix) from error
        try:
            source = inspect.getsource(kind)
        except (OSError, TypeError):  # typed into a shell
            source = None
        return sha256_json([f"{kind.__module__}.{kind.__qualname__}", source, options])

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


def _unidentified(kind: type[SetProperty], found: str, expected: str, fix: str) -> ConfigError:
    return ConfigError(
        f"the property {kind.__name__} cannot be told from others", found=found, expected=expected, fix=fix
    )


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
