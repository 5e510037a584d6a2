from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

from guda_lightning.diffusion import DiffusionModel, FullModel, redraw
from guda_lightning.diffusion.schedulers import noise_schedule, prediction_type
from toys import GaussianDenoiser, tiny_unet

PICTURES = torch.linspace(-1, 1, 128).view(2, 1, 8, 8)


@pytest.mark.parametrize(
    "scheduler",
    [
        DDPMScheduler(num_train_timesteps=100),
        DDPMScheduler(num_train_timesteps=100, prediction_type="v_prediction", clip_sample=False),
        DDPMScheduler(num_train_timesteps=100, prediction_type="sample", variance_type="fixed_large"),
        FlowMatchEulerDiscreteScheduler(num_train_timesteps=100),
    ],
)
def test_the_full_model_draws_the_picture_itself_and_another_model_another_one(scheduler: object) -> None:
    model = DiffusionModel(tiny_unet(), noise_schedule(scheduler), prediction_type(scheduler))
    full, other = FullModel(model, scheduler, "hash"), replace(model, denoiser=tiny_unet(1))
    steps: list[int] = []
    same = redraw(full, model, PICTURES, seed=3, steps=10, on_step=lambda: steps.append(2))
    torch.testing.assert_close(same, PICTURES, rtol=0, atol=1e-5)
    assert len(steps) == 10
    moved = redraw(full, other, PICTURES, seed=3, steps=10)
    assert float((moved - PICTURES).abs().max()) > 0.05
    torch.testing.assert_close(redraw(full, other, PICTURES, seed=3, steps=10), moved)


def test_models_of_two_gaussians_move_every_picture_by_the_distance_of_their_means() -> None:
    # The noise by which a model of N(m, s² I) arrives at x lets a model of N(m + d, s² I) arrive at x + d.
    scheduler = DDPMScheduler(num_train_timesteps=100, beta_schedule="squaredcos_cap_v2", clip_sample=False)
    schedule, distance = noise_schedule(scheduler), torch.linspace(-0.5, 0.5, 64).view(1, 8, 8)
    here, there = (GaussianDenoiser(schedule, mean.double(), 0.3) for mean in (0 * distance, distance))
    full = FullModel(DiffusionModel(here, schedule, "epsilon"), scheduler, "hash")
    found = redraw(full, replace(full.model, denoiser=there), PICTURES, seed=0, steps=100)
    torch.testing.assert_close(found, PICTURES + distance, rtol=0, atol=2e-3)
