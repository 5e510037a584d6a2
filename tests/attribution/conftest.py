from __future__ import annotations

from pathlib import Path

import pytest
from diffusers import DDPMScheduler

from guda_lightning.counterfactuals import CounterfactualStore
from guda_lightning.diffusion import DiffusionModule, FullModel
from toys import classifier_store, shades, tiny_unet


@pytest.fixture
def guided_full() -> FullModel:
    return FullModel.of(DiffusionModule(tiny_unet(), DDPMScheduler(num_train_timesteps=100)))


@pytest.fixture
def guidance_store(tmp_path: Path, guided_full: FullModel) -> CounterfactualStore:
    """A store with a classifier of three groups."""
    return classifier_store(tmp_path / "store", guided_full, shades())
