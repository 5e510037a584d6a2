"""Noise schedulers that are not of diffusers, taken as they are."""

from __future__ import annotations

import enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler, UNet2DModel
from diffusers.configuration_utils import register_to_config
from lightning.pytorch import LightningModule
from torch import nn

from guda_lightning.diffusion import DiffusionModule, FullModel, open_full, open_schedule, sample, save_full
from guda_lightning.diffusion.given_scheduler import GivenScheduler
from guda_lightning.diffusion.schedulers import adopted, noise_schedule, prediction_type
from guda_lightning.errors import ConfigError, StoreError
from toys import message, tiny_unet

REFERENCE = DDPMScheduler(num_train_timesteps=40, beta_schedule="squaredcos_cap_v2")
BETAS = REFERENCE.betas


class MeanType(enum.Enum):
    EPSILON = enum.auto()
    START_X = enum.auto()
    PREVIOUS_X = enum.auto()


class Levels(nn.Module):
    """A noise scheduler of one's own, with a network inside."""

    def __init__(self, **said: Any) -> None:
        super().__init__()
        self.register_buffer("alphas_cumprod", REFERENCE.alphas_cumprod)
        self.model = nn.Linear(2, 2)
        for name, value in said.items():
            setattr(self, name, value)


class Mine(LightningModule):
    """A module that keeps its noise levels itself, as many tutorials do."""

    def __init__(self) -> None:
        super().__init__()
        self.unet, self.parameterization = tiny_unet(), "v"
        self.register_buffer("betas", BETAS)


@pytest.mark.parametrize(
    "levels",
    [
        {"alphas_cumprod": REFERENCE.alphas_cumprod},
        {"alphas_cumprod": REFERENCE.alphas_cumprod.numpy()},
        {"alphas_cumprod": REFERENCE.alphas_cumprod.tolist()},
        {"betas": BETAS},
        {"betas": np.asarray(BETAS)},
        {"alphas_cumprod": REFERENCE.alphas_cumprod.bfloat16(), "betas": BETAS},
        {"alphas_cumprod": None, "betas": BETAS},
    ],
    ids=["tensor", "array", "list", "betas", "array of betas", "rounded", "none"],
)
def test_noise_levels_are_found(levels: dict[str, Any]) -> None:
    schedule = noise_schedule(SimpleNamespace(prediction_type="epsilon", **levels))
    assert schedule.hash == noise_schedule(REFERENCE).hash


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"prediction_type": "v_prediction"}, "v_prediction"),
        ({"config": SimpleNamespace(prediction_type="sample")}, "sample"),
        ({"objective": "pred_noise"}, "epsilon"),
        ({"objective": "pred_x0"}, "sample"),
        ({"objective": "pred_v"}, "v_prediction"),
        ({"parameterization": "eps"}, "epsilon"),
        ({"parameterization": "x0"}, "sample"),
        ({"parameterization": "v"}, "v_prediction"),
        ({"model_mean_type": MeanType.EPSILON}, "epsilon"),
        ({"model_mean_type": MeanType.START_X}, "sample"),
    ],
    ids=str,
)
def test_what_the_network_predicts_is_found(said: dict[str, Any], expected: str) -> None:
    assert prediction_type(Levels(**said)) == expected


def test_a_module_itself_may_hold_its_noise_levels(tmp_path: Path) -> None:
    full = FullModel.of(Mine(), "unet", ".")
    assert full.model.schedule.hash == noise_schedule(REFERENCE).hash
    assert full.model.prediction == "v_prediction"


def test_what_a_scheduler_holds_besides_is_not_kept() -> None:
    module = DiffusionModule(tiny_unet(), Levels(objective="pred_noise"))
    assert {name.partition(".")[0] for name in module.state_dict()} == {"denoiser"}
    full = FullModel.of(module)
    assert isinstance(full.scheduler, GivenScheduler)


def test_a_network_of_diffusers_with_another_scheduler_is_stored_and_opened(tmp_path: Path) -> None:
    module = DiffusionModule(tiny_unet(seed=1), Levels(objective="pred_v", clip_sample=False))
    full = FullModel.of(module)
    save_full(tmp_path, full)
    assert UNet2DModel.from_pretrained(tmp_path).config.sample_size == 8
    opened = open_full(tmp_path, DiffusionModule(tiny_unet(), Levels(objective="pred_v", clip_sample=False)))
    assert (opened.hash, opened.provenance()) == (full.hash, full.provenance())
    assert open_schedule(tmp_path).hash == full.model.schedule.hash
    stored = GivenScheduler.load(tmp_path / "scheduler")
    assert stored is not None
    assert (stored.prediction_type, stored.clip_sample) == ("v_prediction", False)

    plain = DDPMScheduler(
        num_train_timesteps=40,
        trained_betas=BETAS.tolist(),
        prediction_type="v_prediction",
        clip_sample=False,
    )
    images = [sample(opened.model, one, (1, 8, 8), [0], seed=0, steps=4) for one in (opened.scheduler, plain)]
    assert torch.equal(*images)


class Renamed(DDIMScheduler):
    """A scheduler of one's own that means the same as its base."""


class Halved(DDPMScheduler):
    """A scheduler of one's own with other noise levels than its base."""

    @register_to_config
    def __init__(self, num_train_timesteps: int = 40, prediction_type: str = "epsilon") -> None:
        super().__init__(num_train_timesteps=num_train_timesteps, prediction_type=prediction_type)
        self.alphas_cumprod = self.alphas_cumprod / 2


def test_a_subclass_is_kept_as_what_can_be_opened_again(tmp_path: Path) -> None:
    renamed = adopted(Renamed(num_train_timesteps=40, prediction_type="sample"))
    assert type(renamed) is DDIMScheduler
    assert (len(noise_schedule(renamed)), prediction_type(renamed)) == (40, "sample")
    full = FullModel.of(DiffusionModule(tiny_unet(), Halved(prediction_type="sample")))
    assert isinstance(full.scheduler, GivenScheduler)
    assert full.model.prediction == "sample"
    assert torch.equal(full.scheduler.alphas_cumprod, DDPMScheduler(40).alphas_cumprod / 2)
    save_full(tmp_path, full)
    assert open_schedule(tmp_path).hash == full.model.schedule.hash


class Shifted(FlowMatchEulerDiscreteScheduler):
    """A flow of one's own with other noise levels than its base."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.sigmas = self.sigmas.square()


def test_a_subclass_of_a_flow_with_other_noise_levels_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^Shifted is no noise scheduler of a known kind\n"):
        adopted(Shifted(num_train_timesteps=40))


def test_a_scheduler_must_say_what_the_network_predicts() -> None:
    expected = message(
        "Levels does not say what the network predicts",
        "none of the attributes prediction_type, objective, parameterization, model_mean_type",
        "the network's prediction: epsilon (the noise), v_prediction or sample (the image)",
        "set it before, e.g. scheduler.prediction_type = 'epsilon'",
    )
    with pytest.raises(ConfigError, match=expected):
        noise_schedule(Levels())


@pytest.mark.parametrize("word", ["score", None, MeanType.PREVIOUS_X])
def test_an_unknown_prediction_is_refused(word: object) -> None:
    expected = message(
        "the noise scheduler's prediction type is unknown",
        f"{word} in Levels.objective",
        "epsilon, v_prediction, sample",
        "set prediction_type of the scheduler to what the network predicts",
    )
    with pytest.raises(ConfigError, match=expected):
        prediction_type(Levels(objective=word))


@pytest.mark.parametrize(
    "scheduler",
    [object(), nn.Identity(), SimpleNamespace(betas=0.1), SimpleNamespace(alphas_cumprod=torch.ones(2, 2))],
    ids=["object", "module", "one number", "a matrix"],
)
def test_what_holds_no_noise_levels_is_refused(scheduler: object) -> None:
    expected = message(
        f"{type(scheduler).__name__} is no noise scheduler of a known kind",
        "neither alphas_cumprod nor betas with one number for each timestep",
        "a scheduler of diffusers, or any object with alphas_cumprod or betas: docs/models.md",
        "name the attribute that holds them, e.g. scheduler='diffusion', or '.' for the module itself; "
        "where there is none, give the module a diffusers scheduler of the same noise levels",
    )
    with pytest.raises(ConfigError, match=expected):
        noise_schedule(scheduler)


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ({"timestep_map": range(0, 80, 2)}, "a respaced diffusion of 40 steps"),
        ({"rescale_timesteps": True, "timestep_map": list(range(40))}, "rescale_timesteps=True"),
    ],
    ids=["respaced", "rescaled"],
)
def test_other_timesteps_than_the_networks_are_refused(said: dict[str, Any], found: str) -> None:
    expected = message(
        "the timesteps of Levels are not those of its network",
        found,
        "the diffusion of training, whose network takes 0, 1, ...",
        "build it with timestep_respacing='' and rescale_timesteps=False",
    )
    with pytest.raises(ConfigError, match=expected):
        noise_schedule(Levels(model_mean_type=MeanType.EPSILON, **said))


def test_damaged_noise_levels_are_refused(tmp_path: Path) -> None:
    assert GivenScheduler.load(tmp_path) is None
    GivenScheduler(REFERENCE.alphas_cumprod, "epsilon").save_pretrained(tmp_path)
    path = tmp_path / "alphas_cumprod.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    expected = message(
        f"{path} cannot be read",
        "Error while deserializing header: incomplete metadata, file not fully covered",
        "the noise levels of the full model, as `guda fit` wrote them",
        "restore the file, or run `guda fit` again",
    )
    with pytest.raises(StoreError, match=expected):
        GivenScheduler.load(tmp_path)
