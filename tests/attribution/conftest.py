from __future__ import annotations

from pathlib import Path

import pytest
from diffusers import DDPMScheduler

from guda_lightning.counterfactuals import CounterfactualRecord, CounterfactualStore
from guda_lightning.diffusion import DiffusionModule, FullModel
from guda_lightning.guidance import ClassifierPlan, GroupClassifier, weights_of
from toys import GROUPS, shades, tiny_unet

GUIDED = shades()


@pytest.fixture
def guided_full() -> FullModel:
    return FullModel.of(DiffusionModule(tiny_unet(), DDPMScheduler(num_train_timesteps=100)))


@pytest.fixture
def guidance_store(tmp_path: Path, guided_full: FullModel) -> CounterfactualStore:
    """A store with an untrained classifier of three groups."""
    schedule = guided_full.model.schedule
    module = GroupClassifier(ClassifierPlan(channels=(8,), features=8), GUIDED, schedule)
    record = CounterfactualRecord(
        operator="guidance",
        groups=tuple(sorted(GROUPS)),
        seed=0,
        hparams={"classifier": {"channels": [8], "features": 8}},
        full_hash=guided_full.hash,
        grouping_hash=GUIDED.grouping.hash,
        members_hash=GUIDED.grouping.hash,
        schedule_hash=schedule.hash,
        history=[],
        versions={},
        seconds=1.0,
        steps=1,
        network_evaluations=1,
    )
    store = CounterfactualStore(tmp_path / "store")
    store.save(weights_of(module), record)
    return store
