"""A pipeline of some ten thousand weights, and pictures in three colours, with prompts."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.pipelines import stable_diffusion

from guda_lightning.latent import LatentDataModule
from toys import COLOURED_SIZE, Coloured

OTHER_WORDS = "An artwork of something else, with many, many words"


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of an untrained Stable Diffusion that knows the words of the pictures."""
    folder = tmp_path_factory.mktemp("pipeline") / "small"
    texts = [*(Coloured().load().prompts or ()), OTHER_WORDS]
    stable_diffusion(texts, COLOURED_SIZE, width=16, text_width=32, vae_width=8).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def data(pretrained: str, tmp_path: Path) -> LatentDataModule:
    """The coloured pictures as latents."""
    return LatentDataModule(Coloured(), pretrained, str(tmp_path / "cache"), batch_size=6)
