from __future__ import annotations

from pathlib import Path

import pytest
from diffusers import DDPMScheduler

from guda_lightning.counterfactuals import CounterfactualStore
from guda_lightning.diffusion import DiffusionModule, FullModel
from toys import save_guidance, shades, tiny_unet


@pytest.fixture
def guided_full() -> FullModel:
    return FullModel.of(DiffusionModule(tiny_unet(), DDPMScheduler(num_train_timesteps=100)))


@pytest.fixture
def guidance_store(tmp_path: Path, guided_full: FullModel) -> CounterfactualStore:
    """A store with guidance by a classifier of three groups."""
    return save_guidance(tmp_path / "store", guided_full, shades())
