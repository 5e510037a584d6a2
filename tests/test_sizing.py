"""Operations, memory and seconds of the sizing guide against what can be counted by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from benchmarks.gpu_costs import PEAK, TRAIN_STEP, UTILISATION, Memory, Recipe
from benchmarks.networks import DDPM, DIGITS, SMALL, Counted, flops, saved
from benchmarks.sizing import budget, methods
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from guda_lightning.diffusion.cost import BACKWARD_FACTOR

CONFIGS = Path(__file__).parents[1] / "configs"


def test_operations_are_two_for_each_multiplication_and_addition() -> None:
    with torch.device("meta"):
        network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 16, 5))
        assert flops(network, torch.zeros(2, 3, 4, 4)) == 2 * 2 * (16 * 8 * 3 * 9 + 8 * 16 * 5)


def test_a_training_step_is_about_three_forward_passes() -> None:
    counted = Counted(DIGITS)
    network = counted.build("cpu")
    with FlopCounterMode(display=False) as counter:
        network(**counted.inputs(4, "cpu")).sample.square().mean().backward()
    assert counter.get_total_flops() / (4 * counted.flops) == pytest.approx(BACKWARD_FACTOR, rel=0.02)


@pytest.mark.parametrize(("config", "file"), [(DIGITS, "digits.yaml"), (SMALL, "cifar10_gpu.yaml")])
def test_networks_are_those_of_the_configurations(config: dict[str, object], file: str) -> None:
    made = yaml.safe_load((CONFIGS / file).read_text())["model"]["init_args"]["denoiser"]["init_args"]
    ours = json.loads(json.dumps(config))  # tuples as lists
    assert {"in_channels": 3, "out_channels": 3, **ours} == made


def test_the_network_of_ddpm_has_the_parameters_that_its_paper_names() -> None:
    assert round(Counted(DDPM).parameters / 1e6, 1) == 35.7


def test_what_autograd_saves_of_a_layer_is_its_input() -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(1000, 1000)

        def forward(self, sample: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.linear(sample).relu()
            out.sample = out  # type: ignore[attr-defined]
            return out

    with torch.device("meta"):
        # Its input for the weight's gradient, and its output for that of the activation.
        assert saved(Layer(), {"sample": torch.zeros(50, 1000)}) == 2 * 4 * 50_000 / 1e9


def test_fsdp2_spreads_what_is_not_an_activation() -> None:
    assert [Memory(20, 2).gpus(size) for size in (24, 12, 8, 4, 2)] == [1, 2, 4, 0, 0]


def test_seconds_follow_from_operations() -> None:
    recipe = Recipe(Counted(DIGITS), images=1000, steps=100, batch=64, unlearning=10, pair=8)
    step = 3 * 64 * recipe.network.flops / (PEAK * UTILISATION) + TRAIN_STEP
    assert recipe.fit() == pytest.approx(100 * step)
    ten, sixty = methods(recipe, 10, noise=1e-9), methods(recipe, 60, noise=1e-9)
    assert [row.method for row in ten] == ["guidance", "retrack, all weights", "retraining, one seed"]
    for few, many, grows in zip(ten, sixty, (1, 6, 6), strict=True):
        assert many.training == pytest.approx(grows * few.training)
    assert sixty[1].scoring / ten[1].scoring == pytest.approx(61 / 11, rel=1e-3)
    assert sixty[0].scoring < 6 * ten[0].scoring


def test_the_gpu_benchmark_is_made_for_half_an_hour() -> None:
    recipe = Recipe(Counted(SMALL), 100_000, 1000, 512, 150, 128)
    *parts, whole = budget(recipe, noise=25e-9)
    assert int(str(whole["seconds"])) == pytest.approx(
        sum(int(str(part["seconds"])) for part in parts), abs=5
    )
    assert int(str(whole["seconds"])) < 30 * 60
