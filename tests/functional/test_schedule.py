from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from guda_lightning.errors import ConfigError, NumericsError
from guda_lightning.functional.schedule import NoiseSchedule

SCHEDULES = ["linear", "scaled_linear", "squaredcos_cap_v2"]


def alphas_cumprod(name: str, timesteps: int = 1000) -> Tensor:
    return DDPMScheduler(num_train_timesteps=timesteps, beta_schedule=name).alphas_cumprod


@st.composite
def decreasing_alphas(draw: st.DrawFn) -> Tensor:
    steps = draw(st.lists(st.floats(1e-4, 0.99), min_size=2, max_size=80))
    return torch.cumprod(1 - torch.tensor(steps, dtype=torch.float64), dim=0)


@pytest.mark.parametrize("timesteps", [10, 1000, 4000])
@pytest.mark.parametrize("name", SCHEDULES)
def test_kl_weights_are_the_ddpm_posterior_ratio_in_extended_precision(name: str, timesteps: int) -> None:
    betas = DDPMScheduler(num_train_timesteps=timesteps, beta_schedule=name).betas.double()
    alpha_bar = torch.cumprod(1 - betas, dim=0)
    schedule = NoiseSchedule.from_alphas_cumprod(alpha_bar)

    beta = betas.numpy().astype(np.longdouble)
    alpha = 1 - beta
    bar = np.cumprod(alpha)
    bar_prev = np.concatenate([[np.longdouble(1)], bar[:-1]])
    posterior_variance = beta * (1 - bar_prev) / (1 - bar)
    with np.errstate(divide="ignore"):  # t = 0 has no posterior variance
        expected = beta**2 / (2 * posterior_variance * alpha * (1 - bar))

    scored = schedule.scored_timesteps.numpy()
    np.testing.assert_allclose(
        schedule.kl_weights.numpy()[scored], expected[scored].astype(np.float64), rtol=1e-9
    )


@pytest.mark.parametrize("name", SCHEDULES)
def test_kl_weights_follow_from_the_posterior_variance_of_diffusers(name: str) -> None:
    scheduler = DDPMScheduler(beta_schedule=name)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.one = scheduler.one.double()
    bar = scheduler.alphas_cumprod
    schedule = NoiseSchedule.from_alphas_cumprod(bar)
    for t in (1, 2, 10, 100, 500, 990):
        alpha = bar[t] / bar[t - 1]
        expected = (1 - alpha) ** 2 / (2 * scheduler._get_variance(t) * alpha * (1 - bar[t]))
        torch.testing.assert_close(schedule.kl_weights[t], expected, rtol=1e-9, atol=0)


@given(alpha_bar=decreasing_alphas())
@settings(deadline=None, max_examples=100)
def test_kl_weights_telescope_to_the_whole_snr_range(alpha_bar: Tensor) -> None:
    schedule = NoiseSchedule.from_alphas_cumprod(alpha_bar)
    snr = alpha_bar / (1 - alpha_bar)
    # in units of the clean sample the weights are ½ (SNR_{t−1} − SNR_t)
    total = (schedule.kl_weights * snr).sum()
    torch.testing.assert_close(total, 0.5 * (snr[0] - snr[-1]), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(schedule.snr, snr, rtol=1e-9, atol=0)
    torch.testing.assert_close(schedule.gamma**2 + schedule.sigma**2, torch.ones_like(snr))


@pytest.mark.parametrize("timesteps", [10, 1000, 4000])
@pytest.mark.parametrize(("name", "last"), [("linear", -1), ("scaled_linear", -1), ("squaredcos_cap_v2", -2)])
def test_the_range_ends_before_a_clipped_step_only(name: str, last: int, timesteps: int) -> None:
    schedule = NoiseSchedule.from_alphas_cumprod(alphas_cumprod(name, timesteps))
    assert schedule.scored_timesteps.tolist() == list(range(1, timesteps + last + 1))
    assert torch.count_nonzero(schedule.kl_weights) == timesteps + last
    assert len(schedule) == timesteps
    assert schedule.model_timesteps.tolist() == list(range(timesteps))


def test_the_clipped_step_alone_would_outweigh_all_others() -> None:
    schedule = NoiseSchedule.from_alphas_cumprod(alphas_cumprod("squaredcos_cap_v2"))
    clipped = 0.5 * (schedule.snr[998] / schedule.snr[999] - 1)
    assert clipped == pytest.approx(499, abs=1)
    assert schedule.kl_weights.sum() == pytest.approx(13, abs=0.5)


def test_a_step_to_zero_snr_is_left_out() -> None:
    bar = DDPMScheduler(beta_schedule="linear", rescale_betas_zero_snr=True).alphas_cumprod.clone()
    bar[-1] = 0.0
    schedule = NoiseSchedule.from_alphas_cumprod(bar)
    assert schedule.scored_timesteps[-1] == 998
    assert torch.isfinite(schedule.kl_weights).all()


def test_a_step_from_no_noise_is_left_out() -> None:
    schedule = NoiseSchedule.from_alphas_cumprod(torch.tensor([1.0, 1.0, 0.9, 0.5, 0.1]))
    assert schedule.scored_timesteps.tolist() == [3, 4]
    assert torch.isfinite(schedule.kl_weights).all()


def test_uniform_weights_share_one_over_the_range() -> None:
    schedule = NoiseSchedule.from_alphas_cumprod(alphas_cumprod("squaredcos_cap_v2", 50))
    assert schedule.uniform_weights[schedule.scored_timesteps].tolist() == pytest.approx([1 / 48] * 48)
    assert schedule.uniform_weights.sum() == pytest.approx(1)
    assert schedule.uniform_weights[[0, 49]].tolist() == [0, 0]


def test_middle_weights_share_one_over_the_middle() -> None:
    schedule = NoiseSchedule.from_alphas_cumprod(torch.linspace(0.99, 0.01, 50, dtype=torch.float64))
    weighted = schedule.middle_weights.nonzero().flatten()
    assert (int(weighted[0]), int(weighted[-1]), len(weighted)) == (5, 34, 30)  # .1 <= t/50 < .7
    assert schedule.middle_weights[weighted].tolist() == pytest.approx([1 / 30] * 30)
    assert torch.equal(schedule.weights("middle"), schedule.middle_weights)


def test_a_schedule_without_a_middle_has_no_weight_there() -> None:
    schedule = NoiseSchedule.from_alphas_cumprod(torch.tensor([0.9, 0.5], dtype=torch.float64))
    assert not schedule.middle_weights.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_flow_is_scored_from_one_percent_noise_to_less_than_pure_noise(dtype: torch.dtype) -> None:
    sigmas = torch.arange(1, 1001, dtype=torch.float64).flip(0).div(1000).to(dtype)
    schedule = NoiseSchedule.from_flow(torch.cat([sigmas, sigmas[:7]]), 1000)
    assert len(schedule) == 1000
    s = torch.arange(1, 1001, dtype=torch.float64) / 1000
    torch.testing.assert_close(schedule.sigma, s, rtol=1e-6, atol=0)
    torch.testing.assert_close(schedule.gamma, 1 - s, rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(schedule.snr, ((1 - s) / s) ** 2, rtol=1e-4, atol=1e-9)
    # s_i = (i + 1) / 1000: the first step leads from s = .01, the last one to s = .999
    assert schedule.scored_timesteps.tolist() == list(range(10, 999))
    torch.testing.assert_close(schedule.model_timesteps, (1000 * s).float())


def test_a_flow_takes_the_sigmas_of_diffusers() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0)
    schedule = NoiseSchedule.from_flow(scheduler.sigmas[scheduler.sigmas > 0], 1000)
    torch.testing.assert_close(schedule.sigma.flip(0).float(), scheduler.sigmas[scheduler.sigmas > 0])
    torch.testing.assert_close(schedule.model_timesteps.flip(0), scheduler.timesteps)


def test_hash_follows_the_float32_values() -> None:
    bar = alphas_cumprod("linear")
    own = NoiseSchedule.from_alphas_cumprod(bar).hash
    assert re.fullmatch("[0-9a-f]{64}", own)
    assert NoiseSchedule.from_alphas_cumprod(bar.double()).hash == own
    others = [
        NoiseSchedule.from_alphas_cumprod(alphas_cumprod("scaled_linear")).hash,
        NoiseSchedule.from_alphas_cumprod(bar[:-1]).hash,
        NoiseSchedule.from_flow(torch.linspace(0.001, 1, 1000), 1000).hash,
        NoiseSchedule.from_flow(torch.linspace(0.001, 1, 1000), 999).hash,
    ]
    assert len({own, *others}) == 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_at_broadcasts_over_samples(dtype: torch.dtype) -> None:
    schedule = NoiseSchedule.from_alphas_cumprod(alphas_cumprod("linear"))
    gamma, sigma = schedule.at(torch.tensor([0, 999]), torch.zeros(2, 3, 4, 5, dtype=dtype))
    assert gamma.shape == sigma.shape == (2, 1, 1, 1)
    assert gamma.dtype == sigma.dtype == dtype
    torch.testing.assert_close(gamma.flatten().double(), schedule.gamma[[0, 999]], rtol=1e-6, atol=0)
    torch.testing.assert_close(sigma.flatten().double(), schedule.sigma[[0, 999]], rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([0.9, 0.95], "2 values from 0.9 to 0.95"),
        ([1.5, 0.5], "2 values from 0.5 to 1.5"),
        ([0.9, float("nan"), 0.1], "3 values from nan to nan"),
        ([0.9, -0.1], "2 values from -0.1 to 0.9"),
        ([[]], "0 values"),
        (0.5, "1 values from 0.5 to 0.5"),
    ],
)
def test_values_that_are_no_schedule_are_refused(values: object, found: str) -> None:
    with pytest.raises(NumericsError) as error:
        NoiseSchedule.from_alphas_cumprod(torch.tensor(values))
    assert str(error.value) == (
        "alphas_cumprod is not a noise schedule\n"
        f"  found:    {found}\n"
        "  expected: finite values in [0, 1] that never increase\n"
        "  fix:      pass scheduler.alphas_cumprod of a DDPM-type scheduler as it is"
    )


@pytest.mark.parametrize("values", [[], [0.5], [1.0, 0.5], [0.5, 0.0]])
def test_a_schedule_without_a_step_to_score_is_refused(values: list[float]) -> None:
    with pytest.raises(NumericsError) as error:
        NoiseSchedule.from_alphas_cumprod(torch.tensor(values))
    assert str(error.value) == (
        "no timestep of the noise schedule can be scored\n"
        f"  found:    {len(values)} timesteps\n"
        "  expected: two consecutive timesteps that both hold signal and noise\n"
        "  fix:      use a schedule of more timesteps"
    )


@pytest.mark.parametrize(
    ("values", "found"),
    [([1.0, 0.5, 0.0], "0 to 1"), ([0.5, 1.25], "0.5 to 1.25"), ([float("nan")], "nan to nan")],
)
def test_noise_levels_that_are_no_flow_are_refused(values: list[float], found: str) -> None:
    with pytest.raises(NumericsError) as error:
        NoiseSchedule.from_flow(torch.tensor(values), 1000)
    assert str(error.value) == (
        "the flow's noise levels are out of range\n"
        f"  found:    {found}\n"
        "  expected: s in (0, 1]\n"
        "  fix:      pass the sigmas that the model was trained on, without the final 0"
    )


def test_check_names_the_timesteps_outside_and_the_range() -> None:
    schedule = NoiseSchedule.from_alphas_cumprod(alphas_cumprod("squaredcos_cap_v2"))
    schedule.check(torch.arange(1, 999))
    with pytest.raises(ConfigError) as error:
        schedule.check(torch.tensor([[5, 999], [0, 999]]))
    assert str(error.value) == (
        "timesteps are outside the range of the ELBO\n"
        "  found:    [0, 999]\n"
        "  expected: 1 <= t <= 998 (schedule of 1000 timesteps)\n"
        "  fix:      choose start, stop and step inside 1..998"
    )


@pytest.mark.parametrize("flow", [False, True])
def test_timesteps_and_those_of_the_network_are_inverse(flow: bool) -> None:
    schedule = NoiseSchedule.from_alphas_cumprod(DDPMScheduler().alphas_cumprod)
    if flow:
        schedule = NoiseSchedule.from_flow(torch.arange(1, 1001, dtype=torch.float64) / 1000, 1000)
    timesteps, like = torch.tensor([0, 3, 500, 999]), torch.zeros(4, 1)
    values = schedule.model_timesteps_at(timesteps, like)
    assert torch.equal(values, schedule.model_timesteps[timesteps])
    assert torch.equal(schedule.timesteps_of(values), timesteps)
    assert torch.equal(schedule.timesteps_of(values[2].expand(5)), torch.full((5,), 500))


def test_the_log_snr_is_that_of_the_snr() -> None:
    schedule = NoiseSchedule.from_alphas_cumprod(DDPMScheduler().alphas_cumprod)
    timesteps = torch.tensor([1, 400, 999])
    log_snr = schedule.log_snr_at(timesteps, like=torch.zeros(3, 1, 2, 2, dtype=torch.float64))
    torch.testing.assert_close(log_snr, schedule.snr[timesteps].log(), rtol=1e-12, atol=1e-12)
