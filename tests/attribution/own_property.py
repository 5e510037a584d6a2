"""A property of one's own: how much an image is like a digit."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from torch import Tensor

from guda_lightning.attribution import SetProperty
from guda_lightning.data import Digits, GroupDataModule


@dataclass(frozen=True)
class LikeDigit(SetProperty):
    """Mean product of pixels with the digit's mean image, from which the mean of all digits is taken away."""

    name = "like a digit"
    digit: int = 0

    def __call__(self, images: Tensor) -> Tensor:
        """One number an image."""
        return (images * _typical(self.digit)).mean(dim=(1, 2, 3))


@cache
def _typical(digit: int) -> Tensor:
    data = GroupDataModule(Digits(), batch_size=16)
    data.setup()
    every = data.seen_inputs(np.arange(data.grouping.num_samples))
    return data.seen_inputs(data.grouping.forget([str(digit)])).mean(dim=0) - every.mean(dim=0)
