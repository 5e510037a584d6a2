from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, DiTTransformer2DModel
from torch import Tensor, nn

from guda_lightning.diffusion import CallAs, DiffusionModel
from guda_lightning.diffusion.cost import seconds_per_evaluation, seconds_per_step
from guda_lightning.diffusion.labels import refuse_labels
from guda_lightning.diffusion.schedulers import noise_schedule
from guda_lightning.errors import ConfigError
from guda_lightning.functional.schedule import NoiseSchedule
from toys import message, tiny_unet

SCHEDULE = noise_schedule(DDPMScheduler(num_train_timesteps=20))


class Embeds(nn.Module):
    """A network that says, or does not say, how many classes it has embeddings for, as MONAI's does."""

    def __init__(self, classes: int, said: bool = True) -> None:
        super().__init__()
        self.class_embedding = nn.Embedding(classes, 1)
        if said:
            self.num_class_embeds = classes

    def forward(self, x: Tensor, timesteps: Tensor, class_labels: Tensor) -> Tensor:
        return x + self.class_embedding(class_labels)[..., None, None]


def dit() -> DiTTransformer2DModel:
    return DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=4,
        in_channels=1,
        num_layers=1,
        norm_num_groups=1,
        sample_size=8,
        patch_size=4,
        num_embeds_ada_norm=2,
    )


@pytest.mark.parametrize(
    "network",
    [
        tiny_unet(num_class_embeds=2),
        Embeds(2),
        CallAs(Embeds(2), timesteps="timesteps", class_labels="class_labels"),
        dit(),
    ],
    ids=["UNet2DModel", "MONAI", "adapter", "DiT"],
)
def test_too_few_class_embeddings_are_refused(network: nn.Module) -> None:
    model = DiffusionModel(network, SCHEDULE, "epsilon", conditional=True)
    refuse_labels(model, 2)
    expected = message(
        f"{type(network).__name__} has too few class embeddings",
        "2 for the 3 classes of the data",
        "at least 3, as the model is conditional",
        "set num_class_embeds of the network to 3, or conditional of the model to false",
    )
    with pytest.raises(ConfigError, match=expected):
        refuse_labels(model, 3)


def test_a_conditional_model_needs_data_with_labels() -> None:
    expected = message(
        "a label-conditional model needs data with class labels",
        "data without labels",
        "a class for every image",
        "use a source with labels, or set conditional of the model to false",
    )
    with pytest.raises(ConfigError, match=expected):
        refuse_labels(DiffusionModel(Embeds(2), SCHEDULE, "epsilon", conditional=True), 0)


@pytest.mark.parametrize(
    "network",
    [tiny_unet(class_embed_type="timestep"), Embeds(2, said=False)],
    ids=["no table", "unknown"],
)
def test_networks_that_do_not_say_how_many_classes_they_take_are_tried(network: nn.Module) -> None:
    refuse_labels(DiffusionModel(network, SCHEDULE, "epsilon", conditional=True), 3)


def test_prompts_are_no_classes() -> None:
    model = DiffusionModel(tiny_unet(), SCHEDULE, "epsilon", prompts=lambda numbers: {}, conditional=True)
    refuse_labels(model, 3)


@pytest.mark.parametrize("measure", [seconds_per_evaluation, seconds_per_step])
def test_the_last_class_is_tried_before_the_work(measure: Any) -> None:
    model = DiffusionModel(Embeds(2, said=False), SCHEDULE, "epsilon", conditional=True)
    assert measure(model, (1, 8, 8), 1, num_classes=2) > 0
    with pytest.raises(ConfigError, match="index out of range in self"):
        measure(model, (1, 8, 8), 1, num_classes=3)


class Steps(nn.Module):
    """A network with a table of timesteps."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = nn.Embedding(steps, 1)

    def forward(self, x: Tensor, t: Tensor) -> SimpleNamespace:
        return SimpleNamespace(sample=x + self.steps(t)[..., None, None])


def test_the_last_timestep_is_tried_before_the_work() -> None:
    assert seconds_per_step(DiffusionModel(Steps(20), SCHEDULE, "epsilon"), (1, 8, 8), 1) > 0
    with pytest.raises(ConfigError, match="index out of range in self"):
        seconds_per_step(DiffusionModel(Steps(19), SCHEDULE, "epsilon"), (1, 8, 8), 1)
    assert torch.equal(SCHEDULE.model_timesteps, torch.arange(20))


class Nothing(nn.Module):
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return x


def test_a_network_without_weights_is_refused() -> None:
    expected = message(
        "Nothing has no weights to train",
        "no parameters of floating-point numbers",
        "a network with some",
        "check that denoiser names the network, and that its layers are registered as submodules",
    )
    with pytest.raises(ConfigError, match=expected):
        seconds_per_step(DiffusionModel(Nothing(), SCHEDULE, "epsilon"), (1, 8, 8), 1)


class Asserts(nn.Module):
    def __init__(self, said: str) -> None:
        super().__init__()
        self.weight, self.said = nn.Parameter(torch.ones(1)), said

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        raise AssertionError(self.said)


@pytest.mark.parametrize("said", ["the height must be divisible by 16", ""])
def test_whatever_a_network_raises_is_the_reason(said: str) -> None:
    expected = message(
        "Asserts cannot be called with this data",
        said or "AssertionError",
        "a network for 1 channels of 8 x 8 pixels, without labels, timesteps 0.5 to 1 (float32)",
        "make in_channels, out_channels and num_class_embeds of the network, conditional and scheduler "
        "of the module, and channels and image_size of the data fit together",
    )
    schedule = NoiseSchedule.from_flow(torch.tensor([0.5, 0.75, 1.0]), 1)
    with pytest.raises(ConfigError, match=expected):
        seconds_per_step(DiffusionModel(Asserts(said), schedule, "flow"), (1, 8, 8), 1)
