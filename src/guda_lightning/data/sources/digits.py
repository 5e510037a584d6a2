"""The handwritten digits of scikit-learn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guda_lightning.data.sources.source import ImageTable, Source
from guda_lightning.errors import MissingExtraError


@dataclass(frozen=True)
class Digits(Source):
    """The 1797 handwritten digits that ship with scikit-learn: gray, 8 by 8 pixels, labels 0 to 9."""

    def load(self) -> ImageTable:
        """List the digits; ids are row numbers, the 17 levels spread over 0..255."""
        try:
            from sklearn.datasets import load_digits
        except ModuleNotFoundError as error:
            raise MissingExtraError("scikit-learn", "digits") from error
        from PIL import Image

        pixels, labels = _read(load_digits)
        return ImageTable(
            ids=tuple(map(str, range(len(pixels)))),
            read=lambda index: Image.fromarray(pixels[index]),
            labels=labels,
            label_names=tuple(map(str, range(10))),
        )


@cache  # it parses text, and every stage of a run asks for the digits again
def _read(load_digits: Callable[[], Any]) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Pixels and labels."""
    digits = load_digits()
    return np.rint(digits.images * (255 / 16)).astype(np.uint8), tuple(map(str, digits.target))
