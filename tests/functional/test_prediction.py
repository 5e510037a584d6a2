from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from guda_lightning.functional.prediction import add_noise, to_noise, to_output, to_x0
from guda_lightning.functional.schedule import NoiseSchedule
from guda_lightning.types import PredictionType

DDPM_PREDICTIONS: list[PredictionType] = ["epsilon", "v_prediction", "sample"]
TIMESTEPS = torch.tensor([1, 30, 500, 980])


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 4, 3, 5, 5, generator=generator, dtype=torch.float64)
    return x0, noise


def schedule_of(prediction: PredictionType) -> NoiseSchedule:
    if prediction == "flow":
        return NoiseSchedule.from_flow(torch.arange(1, 1001, dtype=torch.float64) / 1000, 1000)
    return NoiseSchedule.from_alphas_cumprod(DDPMScheduler().alphas_cumprod)


@pytest.mark.parametrize("prediction", [*DDPM_PREDICTIONS, "flow"])
def test_a_perfect_output_returns_the_clean_sample_and_the_noise(
    pair: tuple[Tensor, Tensor], prediction: PredictionType
) -> None:
    x0, noise = pair
    gamma, sigma = schedule_of(prediction).at(TIMESTEPS, x0)
    x_t = add_noise(x0, noise, gamma, sigma)
    output = to_output(x0, noise, gamma, sigma, prediction)
    torch.testing.assert_close(to_x0(output, x_t, gamma, sigma, prediction), x0, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(to_noise(output, x_t, gamma, sigma, prediction), noise, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("prediction", [*DDPM_PREDICTIONS, "flow"])
def test_both_readings_of_any_output_explain_the_noised_sample(
    pair: tuple[Tensor, Tensor], prediction: PredictionType
) -> None:
    x_t, output = pair
    gamma, sigma = schedule_of(prediction).at(TIMESTEPS, x_t)
    x0_hat = to_x0(output, x_t, gamma, sigma, prediction)
    noise_hat = to_noise(output, x_t, gamma, sigma, prediction)
    torch.testing.assert_close(add_noise(x0_hat, noise_hat, gamma, sigma), x_t, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        to_output(x0_hat, noise_hat, gamma, sigma, prediction), output, rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("prediction", DDPM_PREDICTIONS)
def test_the_clean_sample_is_that_of_diffusers(
    pair: tuple[Tensor, Tensor], prediction: PredictionType
) -> None:
    x_t, output = pair
    scheduler = DDPMScheduler(prediction_type=prediction, clip_sample=False)
    gamma, sigma = schedule_of(prediction).at(TIMESTEPS, x_t)
    ours = to_x0(output, x_t, gamma, sigma, prediction)
    for row, t in enumerate(TIMESTEPS.tolist()):
        theirs = scheduler.step(output[row : row + 1], t, x_t[row : row + 1]).pred_original_sample
        torch.testing.assert_close(ours[row : row + 1], theirs, rtol=1e-4, atol=1e-4)  # theirs: float32 ᾱ


def test_noising_and_the_velocity_target_are_those_of_diffusers(pair: tuple[Tensor, Tensor]) -> None:
    x0, noise = pair
    scheduler = DDPMScheduler()
    gamma, sigma = schedule_of("v_prediction").at(TIMESTEPS, x0)
    ours = to_output(x0, noise, gamma, sigma, "v_prediction")
    torch.testing.assert_close(add_noise(x0, noise, gamma, sigma), scheduler.add_noise(x0, noise, TIMESTEPS))
    torch.testing.assert_close(ours, scheduler.get_velocity(x0, noise, TIMESTEPS))


def test_noising_and_an_euler_step_of_a_flow_are_those_of_diffusers(pair: tuple[Tensor, Tensor]) -> None:
    x0, noise = pair
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000)
    schedule = NoiseSchedule.from_flow(scheduler.sigmas[scheduler.sigmas > 0], 1000)
    gamma, sigma = schedule.at(TIMESTEPS, x0)
    x_t = add_noise(x0, noise, gamma, sigma)
    theirs = scheduler.scale_noise(x0, schedule.model_timesteps[TIMESTEPS], noise)
    torch.testing.assert_close(x_t, theirs, rtol=1e-6, atol=1e-6)

    # one Euler step from s to 0 along the predicted velocity lands on the predicted clean sample
    velocity = to_output(x0, noise, gamma, sigma, "flow")
    scheduler.set_timesteps(sigmas=[float(sigma[2])])
    landed = scheduler.step(velocity[2:3], scheduler.timesteps[0], x_t[2:3]).prev_sample
    torch.testing.assert_close(landed, to_x0(velocity, x_t, gamma, sigma, "flow")[2:3], rtol=1e-5, atol=1e-5)
