"""``ClassifierPlan``: how a classifier of noised samples is built and trained."""

from __future__ import annotations

import math
from dataclasses import dataclass

from guda_lightning.errors import ConfigError, check_range

DENSE_SIDE = 8  # pixels a side up to which a classifier of dense layers alone does as well
DENSE_VALUES = 64  # of an image up to which convolutions add nothing but cost (docs/benchmarks.md)


@dataclass(frozen=True)
class ClassifierPlan:
    """How the classifier is built and trained; the defaults are those of 8 x 8 images (docs/benchmarks.md).

    Attributes:
        channels: Channels of convolutional levels, multiples of 8, each of which halves the image; an empty
            list for dense layers alone. None: 16, 32, ... up to 128, until a side has 2 pixels or 3; none for
            images of at most 64 values.
        width: Units of each dense layer.
        features: Features that the logits are linear in.
        steps: Optimizer steps at most.
        patience: Tests on held-out samples, one every 50 steps, without a lower loss that end the training.
        batch_size: Images per step and process.
        lr: Learning rate of AdamW.
        weight_decay: Of AdamW.
        held_out: Share of the samples that are not trained on, but tested and calibrated on, in [0, 1).

    Raises:
        ConfigError: A number is out of range.
    """

    channels: tuple[int, ...] | None = None
    width: int = 256
    features: int = 64
    steps: int = 1000
    patience: int = 6
    batch_size: int = 256
    lr: float = 2.5e-3
    weight_decay: float = 0.1
    held_out: float = 0.1

    def __post_init__(self) -> None:
        for name in ("width", "features", "steps", "patience", "batch_size"):
            option = f"classifier.{name}"
            check_range(option, getattr(self, name), ge=1, fix=f"set {option}, or leave it out")
        if any(count < 8 or count % 8 for count in self.channels or ()):
            raise ConfigError(
                "classifier.channels is invalid",
                found=list(self.channels or ()),
                expected="one number per convolutional level, each a multiple of 8",
                fix="set classifier.channels, e.g. [32, 64] for 32 x 32 images, or leave it out",
            )

    def channels_for(self, image_shape: tuple[int, int, int]) -> tuple[int, ...]:
        """Channels of the convolutional levels for images of a shape.

        Raises:
            ConfigError: There are more levels than the image can be halved.
        """
        side = min(image_shape[1:])
        if self.channels is None and math.prod(image_shape) <= DENSE_VALUES:
            return ()
        if self.channels is None:
            return tuple(min(16 << level, 128) for level in range(max(0, side.bit_length() - 2)))
        if side >> len(self.channels) == 0:
            raise ConfigError(
                "classifier.channels has too many levels: each halves the image",
                found=f"{len(self.channels)} levels for images of shape {image_shape}",
                expected=f"at most {side.bit_length() - 1} levels",
                fix="shorten classifier.channels, or leave it out",
            )
        return self.channels
