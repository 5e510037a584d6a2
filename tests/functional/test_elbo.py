from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from guda_lightning.errors import ConfigError
from guda_lightning.functional.elbo import (
    delta_elbo,
    elbo,
    kl_from_x0,
    kl_terms,
    paired_difference,
    squared_error,
    stderr_kind,
    timestep_terms,
)
from guda_lightning.functional.prediction import add_noise, to_noise, to_output, to_x0
from guda_lightning.functional.schedule import NoiseSchedule
from guda_lightning.functional.timesteps import TimestepPlan
from guda_lightning.types import PredictionType, Weighting

REFERENCE = json.loads((Path(__file__).parents[1] / "reference" / "kl.json").read_text())
WEIGHTINGS: list[Weighting] = ["elbo", "uniform"]


def ddpm(name: str = "linear", timesteps: int = 1000) -> NoiseSchedule:
    scheduler = DDPMScheduler(num_train_timesteps=timesteps, beta_schedule=name)
    return NoiseSchedule.from_alphas_cumprod(scheduler.alphas_cumprod)


def flow(timesteps: int = 1000) -> NoiseSchedule:
    return NoiseSchedule.from_flow(torch.arange(1, timesteps + 1, dtype=torch.float64) / timesteps, 1000)


def sample_pair(batch: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x0, noise = torch.randn(2, batch, 3, 4, 4, generator=generator, dtype=torch.float64)
    return x0, noise


def gaussian_step_kl(schedule: NoiseSchedule, t: int, x_t: Tensor, x0: Tensor, x0_hat: Tensor) -> Tensor:
    """KL between the reverse steps from x_t that assume x0 and x0_hat, by conditioning Gaussians.

    Works for any (γ, σ): x_t = a x_{t−1} + N(0, v) with a = γ_t / γ_{t−1}, v = σ_t² − a² σ_{t−1}².
    """
    (g_prev, g), (s_prev, s) = schedule.gamma[t - 1 : t + 1], schedule.sigma[t - 1 : t + 1]
    a = g / g_prev
    v = s**2 - a**2 * s_prev**2
    precision = a**2 / v + 1 / s_prev**2

    def step(clean: Tensor) -> Normal:
        mean = (a / v * x_t + g_prev / s_prev**2 * clean) / precision
        return Normal(mean, precision.rsqrt().expand_as(mean))

    return kl_divergence(step(x0), step(x0_hat)).flatten(1).sum(dim=1)


@pytest.mark.parametrize("case", REFERENCE, ids=lambda case: "-".join(map(str, case["config"].values())))
def test_kl_terms_match_the_papers_code(case: dict[str, Any]) -> None:
    alphas_cumprod = DDPMScheduler(**case["config"]).alphas_cumprod
    schedule = NoiseSchedule.from_alphas_cumprod(alphas_cumprod)
    x0, noise, predicted = (torch.tensor(case[name]) for name in ("x0", "noise", "predicted_noise"))
    for row in case["kl"]:
        t = torch.full((len(noise),), row["t"])
        expected = torch.tensor(row["kl_nats"], dtype=torch.float64)
        if row["t"] in schedule.scored_timesteps:
            ours = kl_terms(noise, predicted, t, alphas_cumprod)
            torch.testing.assert_close(ours, expected, rtol=5e-3, atol=0)
        else:  # the clipped step of the cosine schedule: out of the ELBO, yet the same formula
            assert row["t"] == len(schedule) - 1
            with pytest.raises(ConfigError, match="timesteps are outside the range of the ELBO"):
                kl_terms(noise, predicted, t, alphas_cumprod)
        gamma, sigma = schedule.at(t, x0.double())
        x_t = add_noise(x0.double(), noise.double(), gamma, sigma)
        x0_hat = to_x0(predicted.double(), x_t, gamma, sigma, "epsilon")
        ours = kl_from_x0(x0.double(), x0_hat, schedule.snr[t - 1], schedule.snr[t])
        torch.testing.assert_close(ours, expected, rtol=5e-3, atol=0)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_kl_terms_are_the_kl_between_two_steps_of_diffusers(prediction: PredictionType) -> None:
    scheduler = DDPMScheduler(beta_schedule="linear", prediction_type=prediction, clip_sample=False)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.one = scheduler.one.double()
    schedule = NoiseSchedule.from_alphas_cumprod(scheduler.alphas_cumprod)
    x0, noise = sample_pair(3)
    predicted = noise + 0.3 * sample_pair(3, seed=1)[0]
    for t in (1, 2, 50, 500, 999):
        gamma, sigma = schedule.at(torch.tensor([t]), x0)
        x_t = add_noise(x0, noise, gamma, sigma)
        outputs = [
            to_output(to_x0(eps, x_t, gamma, sigma, "epsilon"), eps, gamma, sigma, prediction)
            for eps in (noise, predicted)
        ]
        # the same generator draws the same step noise, so that the samples differ by the means alone
        true, ours = (
            scheduler.step(out, t, x_t, generator=torch.Generator().manual_seed(0)).prev_sample
            for out in outputs
        )
        std = scheduler._get_variance(t).sqrt().expand_as(true)
        expected = kl_divergence(Normal(true, std), Normal(ours, std)).flatten(1).sum(dim=1)
        kl = kl_terms(noise, predicted, torch.full((3,), t), scheduler.alphas_cumprod)
        torch.testing.assert_close(kl, expected, rtol=1e-7, atol=0)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("name", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_kl_from_x0_equals_kl_terms_for_every_prediction(name: str, prediction: PredictionType) -> None:
    schedule = ddpm(name)
    t = torch.tensor([1, 2, 10, 100, 500, 900, 998])
    x0, noise = sample_pair(len(t))
    gamma, sigma = schedule.at(t, x0)
    x_t = add_noise(x0, noise, gamma, sigma)
    output = to_output(x0, noise, gamma, sigma, prediction) + 0.1 * sample_pair(len(t), seed=1)[0]
    by_noise = kl_terms(noise, to_noise(output, x_t, gamma, sigma, prediction), t, schedule.gamma.square())
    by_x0 = kl_from_x0(x0, to_x0(output, x_t, gamma, sigma, prediction), schedule.snr[t - 1], schedule.snr[t])
    torch.testing.assert_close(by_x0, by_noise, rtol=1e-9, atol=0)


def test_kl_of_a_flow_follows_from_its_velocity_error() -> None:
    schedule = flow()
    t = torch.tensor([10, 11, 100, 500, 997, 998])
    x0, noise = sample_pair(len(t))
    gamma, sigma = schedule.at(t, x0)
    x_t = add_noise(x0, noise, gamma, sigma)
    velocity = noise - x0
    predicted = velocity + 0.2 * sample_pair(len(t), seed=1)[0]

    s, s_prev = (t.double() + 1) / 1000, t.double() / 1000
    snr, snr_prev = (((1 - level) / level) ** 2 for level in (s, s_prev))
    error = (velocity - predicted).flatten(1).square().sum(dim=1)
    expected = 0.5 * (snr_prev - snr) * s**2 * error

    x0_hat = to_x0(predicted, x_t, gamma, sigma, "flow")
    by_x0 = kl_from_x0(x0, x0_hat, schedule.snr[t - 1], schedule.snr[t])
    torch.testing.assert_close(by_x0, expected, rtol=1e-9, atol=0)
    noise_hat = to_noise(predicted, x_t, gamma, sigma, "flow")
    by_noise = schedule.kl_weights[t] * squared_error(noise, noise_hat)
    torch.testing.assert_close(by_noise, by_x0, rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    "schedule", [ddpm(), ddpm("squaredcos_cap_v2"), flow()], ids=["ddpm", "cosine", "flow"]
)
def test_kl_is_that_of_conditioned_gaussians_under_any_schedule(schedule: NoiseSchedule) -> None:
    x0, noise = sample_pair(2)
    x0_hat = x0 + 0.1 * sample_pair(2, seed=1)[0]
    for t in schedule.scored_timesteps[[0, 1, 50, 400, -2, -1]].tolist():
        gamma, sigma = schedule.at(torch.tensor([t]), x0)
        expected = gaussian_step_kl(schedule, t, add_noise(x0, noise, gamma, sigma), x0, x0_hat)
        ours = kl_from_x0(x0, x0_hat, schedule.snr[[t - 1]], schedule.snr[[t]])
        torch.testing.assert_close(ours, expected, rtol=1e-7, atol=0)


def test_kl_terms_refuse_timesteps_outside_the_range() -> None:
    noise = torch.zeros(2, 3)
    with pytest.raises(ConfigError) as error:
        kl_terms(noise, noise, torch.tensor([0, 5]), DDPMScheduler().alphas_cumprod)
    assert str(error.value) == (
        "timesteps are outside the range of the ELBO\n"
        "  found:    [0]\n"
        "  expected: 1 <= t <= 999 (schedule of 1000 timesteps)\n"
        "  fix:      choose start, stop and step inside 1..999"
    )


def test_squared_errors_are_summed_in_float64() -> None:
    noise = torch.full((1, 2**20), 0.1)
    error = squared_error(noise, torch.zeros_like(noise))
    assert error.dtype == torch.float64
    assert error.item() == pytest.approx(2**20 * float(np.float32(0.1)) ** 2, rel=1e-12)


@st.composite
def schedules(draw: st.DrawFn) -> NoiseSchedule:
    kind = draw(st.sampled_from(["linear", "scaled_linear", "squaredcos_cap_v2", "flow", "random"]))
    if kind == "random":
        steps = draw(st.lists(st.floats(1e-5, 0.998), min_size=3, max_size=60))
        return NoiseSchedule.from_alphas_cumprod(
            torch.cumprod(1 - torch.tensor(steps, dtype=torch.float64), dim=0)
        )
    timesteps = draw(st.integers(5, 1200))
    return flow(timesteps) if kind == "flow" else ddpm(kind, timesteps)


@given(schedule=schedules(), data=st.data())
@settings(deadline=None, max_examples=150)
def test_strata_partition_the_scored_range(schedule: NoiseSchedule, data: st.DataObject) -> None:
    scored = schedule.scored_timesteps.tolist()
    num_strata = data.draw(st.integers(1, min(len(scored), 200)))
    plan = TimestepPlan.stratified(schedule, num_strata, draws=2)
    assert list(plan.timesteps) == scored
    assert plan.num_strata == num_strata
    assert plan.evaluations == 2 * num_strata
    assert plan.sizes.min() >= 1
    assert plan.sizes.sum() == len(scored)
    blocks = [plan.timesteps[a : a + n] for a, n in zip(plan.starts, plan.sizes.tolist(), strict=True)]
    assert [t for block in blocks for t in block] == scored
    drawn = plan.draw(data.draw(st.integers(0, 2**40)), ["a", "b"])
    assert drawn.shape == (2, num_strata, 2)
    for block, values in zip(blocks, drawn.unbind(1), strict=True):
        assert set(values.flatten().tolist()) <= set(block)


@pytest.mark.parametrize("name", ["linear", "squaredcos_cap_v2"])
def test_strata_hold_about_equal_shares_of_both_weightings(name: str) -> None:
    schedule = ddpm(name)
    plan = TimestepPlan.stratified(schedule, 10)
    share = 0.5 * schedule.kl_weights / schedule.kl_weights.sum() + 0.5 * schedule.uniform_weights
    per_stratum = [
        float(share[list(plan.timesteps[a : a + n])].sum())
        for a, n in zip(plan.starts, plan.sizes.tolist(), strict=True)
    ]
    heaviest = float(share.max())  # one timestep cannot be divided
    assert max(per_stratum) < 0.1 + heaviest
    assert min(per_stratum) > 0.1 - heaviest


def test_as_many_strata_as_timesteps_visits_each_once() -> None:
    schedule = ddpm(timesteps=30)
    plan = TimestepPlan.stratified(schedule, 29)
    assert plan.draw(0, ["q"]).flatten().tolist() == list(range(1, 30))


@given(seed=st.integers(0, 2**32), ids=st.lists(st.text(max_size=5), min_size=1, max_size=6, unique=True))
@settings(deadline=None, max_examples=50)
def test_draws_are_a_pure_function_of_seed_and_query(seed: int, ids: list[str]) -> None:
    plan = TimestepPlan.stratified(ddpm(), 8, draws=3)
    together = plan.draw(seed, ids)
    assert torch.equal(plan.draw(seed, ids[::-1]), together.flip(0))
    for row, query in enumerate(ids):
        assert torch.equal(plan.draw(seed, [query])[0], together[row])
    assert not torch.equal(plan.draw(seed + 1, ids), together)


def test_timesteps_inside_a_stratum_are_drawn_alike() -> None:
    plan = TimestepPlan.stratified(ddpm(timesteps=41), 5, draws=4)
    drawn = plan.draw(0, [f"q{i}" for i in range(2000)])
    for i, (start, size) in enumerate(zip(plan.starts, plan.sizes.tolist(), strict=True)):
        counts = np.bincount(drawn[:, i].flatten().numpy(), minlength=41)[
            list(plan.timesteps[start : start + size])
        ]
        assert counts.sum() == 8000
        np.testing.assert_allclose(counts, 8000 / size, atol=5 * (8000 / size) ** 0.5)


def test_a_fixed_plan_is_the_same_grid_for_every_query() -> None:
    plan = TimestepPlan.fixed(ddpm(), start=10, stop=1000, step=10, draws=2)
    grid = torch.arange(10, 1000, 10)
    assert plan.sizes.tolist() == [1] * 99
    assert plan.evaluations == 198
    assert torch.equal(plan.draw(3, ["a", "b"]), grid.view(1, -1, 1).expand(2, 99, 2))


@pytest.mark.parametrize(("weighting", "grid"), [("uniform", [10, 40, 80]), ("middle", [10, 40])])
def test_a_fixed_grid_averages_over_its_points_in_range(weighting: Weighting, grid: list[int]) -> None:
    schedule = ddpm("squaredcos_cap_v2", 100)
    plan = TimestepPlan.fixed(schedule, 10, 81, 1)
    timesteps = plan.draw(0, ["q"])
    errors = torch.zeros(1, plan.num_strata, 1, dtype=torch.float64)
    errors[torch.isin(timesteps, torch.tensor(grid))] = 1
    points = 71 if weighting == "uniform" else 60
    found = -elbo(errors, timesteps, plan, schedule, weighting)
    assert float(found) == pytest.approx(len(grid) / points)


@pytest.mark.parametrize(("kind", "biased"), [("stratified", False), ("fixed", True)])
def test_the_record_says_range_and_bias(kind: str, biased: bool) -> None:
    schedule = ddpm("squaredcos_cap_v2", 100)
    plan = (
        TimestepPlan.fixed(schedule, 1, 99, 7) if kind == "fixed" else TimestepPlan.stratified(schedule, 14)
    )
    record = json.loads(json.dumps(plan.record()))
    assert record == {
        "kind": kind,
        "biased": biased,
        "range": [1, 92] if biased else [1, 98],
        "timesteps": 14 if biased else 98,
        "starts": list(plan.starts),
        "draws": 1,
    }


@pytest.mark.parametrize(("num_strata", "draws"), [(0, 2), (1, 1), (99, 1), (4, 0), (-1, 1)])
def test_impossible_strata_are_refused(num_strata: int, draws: int) -> None:
    schedule = ddpm("squaredcos_cap_v2", 100)
    with pytest.raises(ConfigError) as error:
        TimestepPlan.stratified(schedule, num_strata, draws)
    assert str(error.value) == (
        "the timestep plan has too few or too many timesteps\n"
        f"  found:    {num_strata} strata of {draws} draws\n"
        "  expected: 1 to 98 strata, at least 1 draw, and 2 evaluations for a standard error\n"
        "  fix:      choose 2 to 98 strata, or a grid of that many timesteps"
    )


def test_more_draws_than_anybody_waits_for_are_refused_before_they_are_drawn() -> None:
    with pytest.raises(ConfigError) as error:
        TimestepPlan.stratified(ddpm("squaredcos_cap_v2", 100), 5, 10**12)
    assert str(error.value) == (
        "the number of draws is out of range\n"
        "  found:    1000000000000\n"
        "  expected: draws <= 200000\n"
        "  fix:      lower scoring.draws"
    )


@pytest.mark.parametrize(("start", "stop", "step"), [(5, 5, 1), (9, 5, 1), (1, 9, 0), (9, 1, -1)])
def test_an_empty_grid_is_refused(start: int, stop: int, step: int) -> None:
    with pytest.raises(ConfigError) as error:
        TimestepPlan.fixed(ddpm("squaredcos_cap_v2", 100), start, stop, step)
    assert str(error.value) == (
        "the timestep plan has too few or too many timesteps\n"
        "  found:    0 strata of 1 draws\n"
        "  expected: 1 to 98 strata, at least 1 draw, and 2 evaluations for a standard error\n"
        "  fix:      choose 2 to 98 strata, or a grid of that many timesteps"
    )


def test_a_grid_that_leaves_the_range_is_refused() -> None:
    with pytest.raises(ConfigError) as error:
        TimestepPlan.fixed(ddpm("squaredcos_cap_v2", 100), 0, 100, 33)
    assert str(error.value) == (
        "timesteps are outside the range of the ELBO\n"
        "  found:    [0, 99]\n"
        "  expected: 1 <= t <= 98 (schedule of 100 timesteps)\n"
        "  fix:      choose start, stop and step inside 1..98"
    )


def brute_force(
    errors: Tensor, timesteps: Tensor, plan: TimestepPlan, schedule: NoiseSchedule, weighting: Weighting
) -> np.ndarray:
    """Terms by loops: stratum size × weight × squared error."""
    terms = np.zeros(errors.shape)
    for (q, s, r), error in np.ndenumerate(errors.numpy()):
        t = int(timesteps[q, s, r])
        snr_prev, snr = (float((schedule.gamma[i] / schedule.sigma[i]) ** 2) for i in (t - 1, t))
        weight = 0.5 * (snr_prev / snr - 1) if weighting == "elbo" else 1 / len(schedule.scored_timesteps)
        ends = [*plan.starts, len(plan.timesteps)]
        terms[q, s, r] = (ends[s + 1] - ends[s]) * weight * float(error)
    return terms


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize(("num_strata", "draws"), [(2, 1), (3, 1), (4, 1), (5, 1), (7, 1), (1, 2), (6, 3)])
def test_scores_and_standard_errors_match_loops(num_strata: int, draws: int, weighting: Weighting) -> None:
    schedule = ddpm(timesteps=60)
    plan = TimestepPlan.stratified(schedule, num_strata, draws)
    timesteps = plan.draw(0, ["a", "b", "c"])
    generator = torch.Generator().manual_seed(0)
    full, counterfactual = torch.rand(2, *timesteps.shape, generator=generator, dtype=torch.float64)
    score, stderr = paired_difference(full, counterfactual, timesteps, plan, schedule, weighting)

    terms = [brute_force(e, timesteps, plan, schedule, weighting) for e in (full, counterfactual)]
    elbos = [-t.mean(axis=2).sum(axis=1) for t in terms]
    np.testing.assert_allclose(
        timestep_terms(full, timesteps, plan, schedule, weighting), terms[0], rtol=1e-10
    )
    np.testing.assert_allclose(elbo(full, timesteps, plan, schedule, weighting), elbos[0], rtol=1e-10)
    np.testing.assert_allclose(score, elbos[0] - elbos[1], rtol=1e-9)

    paired = terms[1] - terms[0]
    if draws > 1:
        variance = (paired.var(axis=2, ddof=1) / draws).sum(axis=1)
    else:
        groups = [list(range(i, i + 2)) for i in range(0, num_strata - 1, 2)]
        if num_strata % 2:
            groups[-1:] = [[*groups[-1], num_strata - 1]]
        values = paired[:, :, 0]
        variance = sum(len(g) * values[:, g].var(axis=1, ddof=1) for g in groups)
    np.testing.assert_allclose(stderr, np.sqrt(variance), rtol=1e-9)
    assert stderr_kind(plan) == ("within strata" if draws > 1 else "collapsed strata (conservative)")


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_a_worse_counterfactual_scores_positive(weighting: Weighting) -> None:
    schedule = ddpm()
    plan = TimestepPlan.stratified(schedule, 10)
    timesteps = plan.draw(0, ["q"])
    good, bad = torch.full(timesteps.shape, 1.0), torch.full(timesteps.shape, 2.0)
    assert paired_difference(good, bad, timesteps, plan, schedule, weighting)[0].item() > 0
    assert paired_difference(bad, good, timesteps, plan, schedule, weighting)[0].item() < 0
    assert delta_elbo(torch.tensor(-1.0), torch.tensor(-3.0)) == 2


def test_an_unchanged_model_scores_exactly_zero() -> None:
    schedule = ddpm()
    plan = TimestepPlan.stratified(schedule, 11)
    timesteps = plan.draw(0, ["q", "r"])
    errors = torch.rand(timesteps.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    score, stderr = paired_difference(errors, errors, timesteps, plan, schedule, "elbo")
    assert score.tolist() == stderr.tolist() == [0, 0]


def test_elbo_of_unit_errors_is_the_sum_of_the_weights() -> None:
    # every timestep once: no sampling is left in the estimate
    for schedule in (ddpm(timesteps=50), ddpm("squaredcos_cap_v2", 50), flow(150)):
        plan = TimestepPlan.stratified(schedule, schedule.scored_timesteps.numel())
        timesteps = plan.draw(0, ["q"])
        ones = torch.ones(timesteps.shape, dtype=torch.float64)
        assert elbo(ones, timesteps, plan, schedule, "elbo").item() == pytest.approx(
            -schedule.kl_weights.sum()
        )
        assert elbo(ones, timesteps, plan, schedule, "uniform").item() == pytest.approx(-1)
