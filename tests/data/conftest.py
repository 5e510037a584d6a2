from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

Write = Callable[..., NDArray[np.uint8]]
Message = Callable[[str, object, object, str], str]


@pytest.fixture
def write_image() -> Write:
    """Write a picture of random bytes; return them as (height, width[, 3])."""

    def write(
        path: Path, size: tuple[int, int] = (6, 6), mode: str = "RGB", seed: int = 0
    ) -> NDArray[np.uint8]:
        width, height = size
        shape = (height, width) if mode == "L" else (height, width, 3)
        pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        return pixels

    return write


@pytest.fixture
def image_folder(tmp_path: Path, write_image: Write) -> Callable[[Sequence[str]], Path]:
    """Make a folder of images with the given relative names."""

    def make(names: Sequence[str]) -> Path:
        for seed, name in enumerate(names):
            write_image(tmp_path / "images" / name, seed=seed)
        return tmp_path / "images"

    return make


@pytest.fixture
def message() -> Message:
    """A pattern that matches the whole text of an error."""

    def pattern(problem: str, found: object, expected: object, fix: str) -> str:
        text = f"{problem}\n  found:    {found}\n  expected: {expected}\n  fix:      {fix}"
        return f"^{re.escape(text)}$"

    return pattern
