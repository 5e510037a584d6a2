"""A pipeline of some ten thousand weights, and pictures in three colours, with prompts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from benchmarks.pipelines import stable_diffusion
from PIL import Image

from guda_lightning.data import ImageTable, Source
from guda_lightning.latent import LatentDataModule

SIZE = 16
COLOURS = {"red": ("warm", "hot"), "green": ("leafy", "fresh"), "blue": ("cold", "wet")}
OTHER_WORDS = "An artwork of something else, with many, many words"


@dataclass(frozen=True)
class Coloured(Source):
    """Noise in one channel: picture i of content i % 4, in three colours."""

    count: int = 6

    def load(self) -> ImageTable:
        base = np.random.default_rng(0).integers(0, 255, (self.count, SIZE, SIZE), np.uint8)
        samples = [(number, colour) for number in range(self.count) for colour in COLOURS]

        def read(index: int) -> Image.Image:
            number, colour = samples[index]
            pixels = np.zeros((SIZE, SIZE, 3), np.uint8)
            pixels[..., list(COLOURS).index(colour)] = base[number]
            return Image.fromarray(pixels)

        return ImageTable(
            tuple(f"{number}/{colour}" for number, colour in samples),
            read,
            tuple(colour for _, colour in samples),
            tuple(COLOURS),
            tuple(
                f"A depiction of {number % 4}, artistic style featuring {', '.join(COLOURS[colour])}"
                for number, colour in samples
            ),
        )


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of an untrained Stable Diffusion that knows the words of the pictures."""
    folder = tmp_path_factory.mktemp("pipeline") / "small"
    texts = [*(Coloured().load().prompts or ()), OTHER_WORDS]
    stable_diffusion(texts, SIZE, width=16, text_width=32, vae_width=8).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def data(pretrained: str, tmp_path: Path) -> LatentDataModule:
    """The coloured pictures as latents."""
    return LatentDataModule(Coloured(), pretrained, str(tmp_path / "cache"), batch_size=6)
