"""Networks with other arguments and outputs than a denoiser's, and the adapter for them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn

from guda_lightning.diffusion import CallAs, DiffusionModel
from guda_lightning.diffusion.cost import counting
from guda_lightning.diffusion.schedulers import noise_schedule
from guda_lightning.errors import ConfigError
from toys import message

SCHEDULE = noise_schedule(DDPMScheduler())
X, T = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 400, 999])
LABELS = torch.tensor([4, 5, 6])


def output(network: nn.Module, labels: Tensor | None = None) -> Tensor:
    return DiffusionModel(network, SCHEDULE, "epsilon").output(X, T, labels)


class Returns(nn.Module):
    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor, timesteps: Tensor) -> Any:
        return self.value


@pytest.mark.parametrize(
    "value",
    [
        X,
        (X, None),
        [X, T],
        SimpleNamespace(sample=X),
        {"sample": X, "other": T},
        {"pred": X},
        {"pred": X, "loss": None},
        torch.cat([X, -X], dim=1),
    ],
    ids=["tensor", "tuple", "list", "object", "sample", "single", "other", "variance"],
)
def test_every_form_of_output_is_understood(value: Any) -> None:
    assert torch.equal(output(Returns(value)), X)


@pytest.mark.parametrize(
    ("value", "found"),
    [({"a": X, "b": X}, "a dict with the keys ['a', 'b']"), (None, "a NoneType"), ([], "a list")],
    ids=["several", "nothing", "empty"],
)
def test_other_outputs_are_refused(value: Any, found: str) -> None:
    expected = message(
        "the network's output is not understood",
        found,
        "a tensor, or a tuple, list, dictionary or object that holds one",
        "wrap it, with the key: guda_lightning.diffusion.CallAs(network, ..., output='KEY')",
    )
    with pytest.raises(ConfigError, match=expected):
        output(Returns(value))


def test_an_output_of_another_shape_is_refused() -> None:
    expected = message(
        "what Returns returns has another shape than its input",
        "[3, 3, 8, 8] from [3, 1, 8, 8]",
        "the same shape, or twice the channels where a variance is predicted too",
        "set the network's in_channels and out_channels to the channels of the data",
    )
    with pytest.raises(ConfigError, match=expected):
        output(Returns(X.expand(3, 3, 8, 8)))


class Remembers(nn.Module):
    """Keeps what it was called with."""

    def keep(self, **given: Tensor | None) -> Tensor:
        self.given = given
        return X


class TimeFirst(Remembers):
    def forward(self, t: Tensor, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        return {"pred": self.keep(x=x, t=t, y=y), "features": x}


class Labels(Remembers):
    def forward(self, x: Tensor, timesteps: Tensor, y: Tensor) -> Tensor:
        return self.keep(x=x, timesteps=timesteps, y=y)


class Swallows(Remembers):
    def forward(self, x: Tensor, time: Tensor, classes: Tensor | None = None, **_: Any) -> Tensor:
        return self.keep(x=x, time=time, classes=classes)


class NoLabels(Remembers):
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.keep(x=x, t=t)


class Sigma(nn.Module):
    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return x


class LabelsSecond(Remembers):
    def forward(self, x: Tensor, y: Tensor, t: Tensor, *, drop: float = 0.5) -> Tensor:
        return self.keep(x=x, t=t, y=y, drop=torch.tensor(drop))


class OnlyKeywords(Remembers):
    def forward(self, *, noisy: Tensor, noise_level: Tensor) -> Tensor:
        return self.keep(noisy=noisy, noise_level=noise_level)


@pytest.mark.parametrize(
    ("network", "labels", "found", "wrap"),
    [
        (
            TimeFirst(),
            None,
            "forward(t, x, y=None): its first argument is t",
            "sample='x', timesteps='t', class_labels='y'",
        ),
        (
            Labels(),
            LABELS,
            "forward(x, timesteps, y): it takes class labels by another name",
            "sample='x', timesteps='timesteps', class_labels='y'",
        ),
        (
            Swallows(),
            LABELS,
            "forward(x, time, classes=None, **_): it takes class labels by another name",
            "sample='x', timesteps='time', class_labels='classes'",
        ),
        (
            Labels(),
            None,
            "forward(x, timesteps, y): missing a required argument: 'y'",
            "sample='x', timesteps='timesteps', class_labels='y'",
        ),
        (
            LabelsSecond(),
            LABELS,
            "forward(x, y, t, *, drop=0.5): its second argument is y",
            "sample='x', timesteps='t', class_labels='y'",
        ),
        (
            OnlyKeywords(),
            None,
            "forward(*, noisy, noise_level): too many positional arguments",
            "sample='noisy', timesteps='noise_level'",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)  # fmt: skip
def test_the_error_shows_the_adapter(
    network: nn.Module, labels: Tensor | None, found: str, wrap: str
) -> None:
    expected = message(
        f"{type(network).__name__} is called with other arguments than a denoiser",
        found,
        "forward(x_t, timesteps), and class_labels=... where the model is conditional on classes",
        f"wrap it: guda_lightning.diffusion.CallAs(network, {wrap})",
    )
    with pytest.raises(ConfigError, match=expected):
        output(network, labels)


@pytest.mark.parametrize(
    ("network", "names", "labels"),
    [
        (TimeFirst(), {"sample": "x", "timesteps": "t", "class_labels": "y", "output": "pred"}, None),
        (TimeFirst(), {"sample": "x", "timesteps": "t", "class_labels": "y", "output": "pred"}, LABELS),
        (Labels(), {"sample": "x", "timesteps": "timesteps", "class_labels": "y"}, LABELS),
        (Swallows(), {"sample": "x", "timesteps": "time", "class_labels": "classes"}, LABELS),
        (OnlyKeywords(), {"sample": "noisy", "timesteps": "noise_level"}, None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_the_adapter_calls_a_network_by_its_own_names(
    network: Remembers, names: dict[str, str], labels: Tensor | None
) -> None:
    assert output(CallAs(network, **names), labels) is X
    assert network.given[names["sample"]] is X
    assert torch.equal(network.given[names["timesteps"]], T)
    if "class_labels" in names:
        assert network.given[names["class_labels"]] is labels


def test_labels_need_a_name_in_the_adapter() -> None:
    expected = message(
        "Labels is called with other arguments than a denoiser",
        "forward(x, timesteps, y): no argument is named for class labels",
        "forward(x_t, timesteps), and class_labels=... where the model is conditional on classes",
        "wrap it: guda_lightning.diffusion.CallAs"
        "(network, sample='x', timesteps='timesteps', class_labels='y')",
    )
    with pytest.raises(ConfigError, match=expected):
        output(CallAs(Labels(), timesteps="timesteps"), LABELS)


def test_noise_levels_are_not_taken_for_timesteps() -> None:
    expected = message(
        "Sigma takes noise levels in place of timesteps",
        "forward(x, sigma)",
        "forward(x_t, timesteps)",
        "call it in a module of yours, whose forward(x_t, timesteps) computes them: docs/models.md",
    )
    with pytest.raises(ConfigError, match=expected):
        output(Sigma())


def test_conditions_that_are_missing_are_named() -> None:
    network = UNet2DConditionModel(
        block_out_channels=(4,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        layers_per_block=1,
        norm_num_groups=1,
        cross_attention_dim=4,
        attention_head_dim=2,
    )
    with pytest.raises(ConfigError, match=r"^UNet2DConditionModel needs conditions that") as caught:
        output(network)
    assert caught.value.found.startswith(
        "forward(sample, timestep, encoder_hidden_states, class_labels=None, "
    )
    assert caught.value.found.endswith("): no encoder_hidden_states")


def test_a_network_without_labels_is_not_conditional() -> None:
    expected = message(
        "NoLabels takes no class labels, and the model is conditional on them",
        "forward(x, t)",
        "forward(x_t, timesteps, class_labels=...)",
        "set conditional of the model to false, or name it in guda_lightning.diffusion.CallAs",
    )
    with pytest.raises(ConfigError, match=expected):
        output(NoLabels(), LABELS)


@pytest.mark.parametrize(
    ("value", "found"), [({"a": X, "b": X}, ["a", "b"]), (X, "a Tensor")], ids=["keys", "tensor"]
)
def test_the_adapters_output_must_be_there(value: Any, found: object) -> None:
    expected = message(
        "Returns returns nothing that is named 'pred'",
        found,
        "a dictionary with the key 'pred'",
        "correct output of guda_lightning.diffusion.CallAs, or leave it out",
    )
    with pytest.raises(ConfigError, match=expected):
        output(CallAs(Returns(value), timesteps="timesteps", output="pred"))


def test_other_arguments_stay_the_same() -> None:
    network = LabelsSecond()
    adapter = CallAs(network, sample="x", timesteps="t", class_labels="y", arguments={"drop": 0.0})
    assert output(adapter, LABELS) is X
    assert float(network.given["drop"]) == 0.0
    assert torch.equal(network.given["t"], T)


@pytest.mark.parametrize("wrapped", [False, True])
def test_evaluations_are_counted_inside_the_adapter(wrapped: bool) -> None:
    network = TimeFirst()
    adapter = CallAs(network, sample="x", timesteps="t", output="pred")
    with counting(adapter) as counter:
        output(adapter) if wrapped else network(T, X)
    assert counter.count == 3
