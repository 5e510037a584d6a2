"""The handwritten digits of scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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

        digits = load_digits()
        pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
        labels = tuple(str(label) for label in digits.target)
        return ImageTable(
            ids=tuple(map(str, range(len(pixels)))),
            read=lambda index: Image.fromarray(pixels[index]),
            labels=labels,
            label_names=tuple(map(str, range(10))),
        )
