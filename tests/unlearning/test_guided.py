from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
import torch
from diffusers import DDPMScheduler

from guda_lightning.counterfactuals import CounterfactualStore
from guda_lightning.diffusion import DiffusionModule, FullModel, noised
from guda_lightning.errors import StoreError
from guda_lightning.posteriors import ClassifierPosterior, Mixture, PosteriorStore, guided, open_posterior
from guda_lightning.unlearning import Guided, ObjectiveContext, UnlearnModule
from toys import message, quiet_trainer, save_guidance, shades, tiny_unet

DATA = shades()
pytestmark = pytest.mark.filterwarnings(
    "ignore:Found .* module.s. in eval mode at the start of training:UserWarning"
)


@pytest.fixture
def full() -> FullModel:
    return FullModel.of(DiffusionModule(tiny_unet(), DDPMScheduler(num_train_timesteps=100)))


@pytest.fixture
def store(tmp_path: Path, full: FullModel) -> CounterfactualStore:
    return save_guidance(tmp_path / "store", full, DATA)


def test_forget_and_retain_samples_are_both_led_to_the_guided_model(
    store: CounterfactualStore, full: FullModel
) -> None:
    data, provenance = DATA.unlearning(["bright"]), full.provenance(DATA.grouping.hash)
    context = ObjectiveContext(data, full.model.schedule, provenance, torch.device("cpu"))
    objective = Guided(store=str(store.root), forget_weight=0.5).bind(context)
    student = FullModel.of(DiffusionModule(tiny_unet(1), DDPMScheduler(num_train_timesteps=100))).model
    forget, retain = (noised(torch.rand(4, 1, 8, 8), None, full.model.schedule) for _ in range(2))
    loss = objective.loss(student, full.model, forget, retain)
    posterior, _ = open_posterior(PosteriorStore(store.root), "guidance", full.model.schedule, seed=0)
    model = guided(full.model, posterior, ["bright"])
    parts = [
        (student.output(side.x_t, side.timesteps) - model.output(side.x_t, side.timesteps)).square().mean()
        for side in (forget, retain)
    ]
    torch.testing.assert_close(loss.total, 0.5 * parts[0] + parts[1])
    torch.testing.assert_close(loss.parts["forget"], parts[0])
    loss.total.backward()
    (classifier,) = cast(Mixture, posterior).members
    assert all(p.grad is None for p in cast(ClassifierPosterior, classifier).network.parameters())


def test_a_student_unlearns_with_it(store: CounterfactualStore, full: FullModel, tmp_path: Path) -> None:
    objective = Guided(store=str(store.root))
    module = UnlearnModule(full, objective, ["dark"])
    quiet_trainer(tmp_path, max_steps=3).fit(module, datamodule=DATA.unlearning(["dark"]))
    record = module.save(store)
    assert record.operator == "guided"
    assert record.hparams["objective"] == {
        "class": "Guided",
        "forget_weight": 1.0,
        "posterior": PosteriorStore(store.root).find("guidance", seed=0).weights_hash,
    }


def test_without_a_posterior_it_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(
        StoreError,
        match=message(
            f"there is no posterior of kind guidance in {tmp_path / 'posteriors'}",
            "none of any kind",
            "one with seed 0",
            "run guda guide",
        ),
    ):
        Guided(store=str(tmp_path)).hparams  # noqa: B018
