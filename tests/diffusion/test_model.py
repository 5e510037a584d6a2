from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, DiTTransformer2DModel, FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

from guda_lightning.diffusion import DiffusionModel, diffusion_model
from guda_lightning.diffusion.model import find
from guda_lightning.diffusion.schedulers import noise_schedule, prediction_type
from guda_lightning.errors import ConfigError
from guda_lightning.functional.prediction import add_noise
from toys import message, tiny_unet

SCHEDULE = noise_schedule(DDPMScheduler())
X, T = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 400, 999])


class Returns(nn.Module):
    """A network that returns its input in some form and remembers what it was given."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form

    def forward(self, x: Tensor, timesteps: Tensor, class_labels: Tensor | None = None) -> Any:
        self.model_timesteps, self.labels = timesteps, class_labels
        return {"tensor": x, "tuple": (x, None), "object": SimpleNamespace(sample=x)}[self.form]


@pytest.mark.parametrize("form", ["tensor", "tuple", "object"])
def test_a_network_may_return_a_tensor_a_tuple_or_an_object(form: str) -> None:
    network = Returns(form)
    labels = torch.tensor([4, 5, 6])
    assert DiffusionModel(network, SCHEDULE, "epsilon").output(X, T, labels) is X
    assert torch.equal(network.model_timesteps, T)
    assert torch.equal(network.labels, labels)


def test_a_diffusers_unet_is_called_as_diffusers_does() -> None:
    network = tiny_unet().eval()
    with torch.no_grad():
        assert torch.equal(
            DiffusionModel(network, SCHEDULE, "epsilon").output(X, T), network(X, T, return_dict=False)[0]
        )


def test_a_conditional_unet_gets_its_labels() -> None:
    network = tiny_unet(num_class_embeds=10).eval()
    model = DiffusionModel(network, SCHEDULE, "epsilon")
    labels = torch.tensor([1, 2, 3])
    with torch.no_grad():
        assert torch.equal(model.output(X, T, labels), network(X, T, class_labels=labels).sample)
        assert not torch.equal(model.output(X, T, labels), model.output(X, T, labels + 1))


def test_a_diffusion_transformer_gets_its_labels() -> None:
    network = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=4,
        in_channels=1,
        out_channels=1,
        num_layers=1,
        norm_num_groups=1,
        sample_size=8,
        patch_size=4,
        num_embeds_ada_norm=10,
    ).eval()
    labels = torch.tensor([1, 2, 3])
    with torch.no_grad():
        output = DiffusionModel(network, SCHEDULE, "epsilon").output(X, T, labels)
        assert torch.equal(output, network(X, timestep=T, class_labels=labels).sample)


class Theirs(nn.Module):
    """A module whose parts lie somewhere inside."""

    def __init__(self) -> None:
        super().__init__()
        self.pipe = nn.ModuleDict({"unet": tiny_unet()})
        self.noise_scheduler = DDPMScheduler(num_train_timesteps=50)
        self.width = 3


def test_the_parts_of_a_module_are_found_by_dotted_path() -> None:
    module = Theirs()
    model = diffusion_model(module, "pipe.unet", "noise_scheduler")
    assert model.denoiser is module.pipe["unet"]
    assert len(model.schedule) == 50
    assert model.prediction == "epsilon"


def test_a_wrong_path_offers_names_that_are_there() -> None:
    expected = message(
        "Theirs has no denoiser at 'pipe.unit'",
        "ModuleDict has no attribute 'unit'",
        "a dotted attribute path; near it: unet",
        "pass denoiser='...' with the path of the denoiser inside Theirs",
    )
    with pytest.raises(ConfigError, match=expected):
        diffusion_model(Theirs(), "pipe.unit", "noise_scheduler")
    expected = message(
        "Theirs has no scheduler at 'schedulers'",
        "Theirs has no attribute 'schedulers'",
        "a dotted attribute path; near it: noise_scheduler",
        "pass scheduler='...' with the path of the scheduler inside Theirs",
    )
    with pytest.raises(ConfigError, match=expected):
        diffusion_model(Theirs(), "pipe.unet", "schedulers")


def test_a_path_through_something_without_attributes_is_refused() -> None:
    expected = message(
        "Theirs has no denoiser at 'width.unet'",
        "int has no attribute 'unet'",
        "a dotted attribute path; near it: none",
        "pass denoiser='...' with the path of the denoiser inside Theirs",
    )
    with pytest.raises(ConfigError, match=expected):
        find(Theirs(), "width.unet", "denoiser")


def test_a_denoiser_that_is_no_network_is_refused() -> None:
    expected = message(
        "the denoiser of Theirs is not a network",
        "width is a int",
        "a torch.nn.Module",
        "name the attribute that holds the UNet or transformer, e.g. denoiser='unet'",
    )
    with pytest.raises(ConfigError, match=expected):
        diffusion_model(Theirs(), "width", "noise_scheduler")


class Diffusion(nn.Module):
    """Noise levels and the network in one object."""

    def __init__(self) -> None:
        super().__init__()
        self.model, self.objective = tiny_unet(), "pred_v"
        self.register_buffer("betas", torch.linspace(0.1, 0.2, 20))


def test_the_noise_scheduler_is_not_taken_for_the_network() -> None:
    module = nn.ModuleDict({"diffusion": Diffusion()})
    assert diffusion_model(module, "diffusion.model", "diffusion").denoiser is module["diffusion"].model
    expected = message(
        "the denoiser of ModuleDict is its noise scheduler",
        "diffusion for both",
        "the network alone, which predicts from x_t and a timestep",
        "name it, as denoiser='...': inside are diffusion.model",
    )
    with pytest.raises(ConfigError, match=expected):
        diffusion_model(module, "diffusion", "diffusion")


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_noising_and_prediction_of_a_ddpm_are_those_of_diffusers(prediction: str) -> None:
    scheduler = DDPMScheduler(prediction_type=prediction, beta_schedule="squaredcos_cap_v2")
    noise = torch.randn_like(X)
    schedule = noise_schedule(scheduler)
    x_t = add_noise(X, noise, *schedule.at(T, like=X))
    assert torch.allclose(x_t, scheduler.add_noise(X, noise, T), atol=1e-6)
    target = {"epsilon": noise, "v_prediction": scheduler.get_velocity(X, noise, T), "sample": X}[prediction]
    model = DiffusionModel(Outputs(target), schedule, prediction_type(scheduler))
    # From a clean sample at t = 0 the noise follows only as precisely as float32 divides by its small σ.
    assert torch.allclose(model.predicted_noise(x_t, T), noise, atol=1e-4)


class Outputs(nn.Module):
    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, x_t: Tensor, timesteps: Tensor) -> Tensor:
        return self.output


def test_noising_and_prediction_of_a_flow_are_those_of_diffusers() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    schedule, noise = noise_schedule(scheduler), torch.randn_like(X)
    model_timesteps = schedule.model_timesteps[T]
    # diffusers counts from most to least noise, and finds a timestep by its value.
    assert torch.equal(schedule.model_timesteps, scheduler.timesteps.flip(0))
    x_t = add_noise(X, noise, *schedule.at(T, like=X))
    assert torch.allclose(x_t, scheduler.scale_noise(X, model_timesteps, noise), atol=1e-6)
    network = Returns("tensor")
    DiffusionModel(network, schedule, "flow").output(x_t, T)
    assert torch.equal(network.model_timesteps, model_timesteps)
    model = DiffusionModel(Outputs(noise - X), schedule, prediction_type(scheduler))
    assert torch.allclose(model.predicted_noise(x_t, T), noise, atol=1e-5)


@pytest.mark.parametrize("kind", [DDPMScheduler, FlowMatchEulerDiscreteScheduler])
def test_sampling_with_a_scheduler_leaves_the_training_schedule_alone(kind: Any) -> None:
    scheduler = kind(num_train_timesteps=200)
    before = noise_schedule(scheduler)
    scheduler.set_timesteps(7)
    assert noise_schedule(scheduler).hash == before.hash
    assert len(before) == 200
