"""Squared errors of real networks and of exact denoisers, and the scores that follow."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler

from guda_lightning.attribution import Scoring, score_table, squared_errors
from guda_lightning.diffusion import DiffusionModel
from guda_lightning.diffusion.model import noise_schedule
from guda_lightning.errors import ConfigError
from guda_lightning.functional.elbo import elbo
from guda_lightning.scores import SquaredErrors
from guda_lightning.types import Queries
from toys import GaussianDenoiser, message, tiny_unet

SCHEDULE = noise_schedule(DDPMScheduler(num_train_timesteps=200, beta_schedule="squaredcos_cap_v2"))
SCORING = Scoring(strata=6, draws=2, batch_size=16)


def queries(count: int = 5, size: int = 8) -> Queries:
    images = torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(3)) * 2 - 1
    return Queries(tuple(f"q{i}" for i in range(count)), images)


def chosen(some: Queries, rows: list[int]) -> Queries:
    return Queries(tuple(some.ids[row] for row in rows), some.images[rows])


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_scores_do_not_depend_on_batches_order_or_company(batch_size: int) -> None:
    model, some = DiffusionModel(tiny_unet(dropout=0.5), SCHEDULE, "epsilon"), queries()
    errors, timesteps = squared_errors(model, some, SCORING)
    rows = [3, 0, 4]
    other = Scoring(strata=6, draws=2, batch_size=batch_size)
    again, same_timesteps = squared_errors(model, chosen(some, rows), other)
    assert torch.equal(timesteps[rows], same_timesteps)
    plan = SCORING.plan(SCHEDULE)
    before = elbo(errors, timesteps, plan, SCHEDULE, "elbo")[rows]
    after = elbo(again, same_timesteps, plan, SCHEDULE, "elbo")
    assert ((before - after).abs() <= 1e-5 * before.abs()).all()


def test_another_seed_or_query_has_other_noise() -> None:
    some = queries(2)
    some = Queries(some.ids, some.images[:1].expand(2, -1, -1, -1))  # the same picture under two names
    model = DiffusionModel(tiny_unet(), SCHEDULE, "epsilon")
    errors, _ = squared_errors(model, some, SCORING)
    assert not torch.allclose(errors[0], errors[1])
    assert not torch.allclose(errors, squared_errors(model, some, Scoring(1, strata=6, draws=2))[0])


def test_modes_gradients_and_random_state_come_back() -> None:
    network = tiny_unet(dropout=0.5).train()
    network.mid_block.eval()
    modes = [part.training for part in network.modules()]
    trainable = [parameter.requires_grad for parameter in network.parameters()]
    state = torch.get_rng_state()
    squared_errors(DiffusionModel(network, SCHEDULE, "epsilon"), queries(2), SCORING)
    assert [part.training for part in network.modules()] == modes
    assert [parameter.requires_grad for parameter in network.parameters()] == trainable
    assert torch.equal(torch.get_rng_state(), state)


def test_bf16_forward_passes_are_near_fp32_ones_and_sum_in_float64() -> None:
    model, some = DiffusionModel(tiny_unet(), SCHEDULE, "epsilon"), queries(2)
    fp32, _ = squared_errors(model, some, SCORING)
    bf16, _ = squared_errors(model, some, Scoring(strata=6, draws=2, precision="bf16"))
    assert bf16.dtype == torch.float64
    assert not torch.equal(fp32, bf16)
    assert torch.allclose(fp32, bf16, rtol=0.05)


@pytest.mark.parametrize("weighting", ["elbo", "uniform"])
def test_scores_of_gaussian_models_are_the_exact_ones(weighting: str) -> None:
    """With ``N(m, s² I)`` data, E‖ε − ε̂‖² = (γ²σ²‖x_0 − m‖² + γ⁴s⁴D) / (γ²s² + σ²)² at every timestep."""
    some = queries(24, size=4)
    spread, means = 0.5, {"full": torch.zeros(1, 4, 4), "without a": torch.full((1, 4, 4), 0.6)}
    gamma, sigma = SCHEDULE.gamma, SCHEDULE.sigma
    weights = SCHEDULE.kl_weights if weighting == "elbo" else SCHEDULE.uniform_weights
    scoring, exact, measured = Scoring(strata=12, draws=4), {}, {}
    for name, mean in means.items():
        distance = (some.images.double() - mean).square().flatten(1).sum(dim=1, keepdim=True)
        variance = gamma**2 * spread**2 + sigma**2
        error = (gamma**2 * sigma**2 * distance + gamma**4 * spread**4 * 16) / variance**2
        exact[name] = -(weights * error).sum(dim=1)
        model = DiffusionModel(GaussianDenoiser(SCHEDULE, mean, spread), SCHEDULE, "epsilon")
        values, timesteps = squared_errors(model, some, scoring)
        measured[name] = SquaredErrors(some.ids, values, timesteps, {})
    table = score_table(
        measured["full"], {"a": measured["without a"]}, SCHEDULE, scoring, method="exact", seed=0, record={}
    ).select(weighting=weighting)
    score, stderr = table.matrix()[:, 0], table.stderr_matrix()[:, 0]
    expected = exact["full"] - exact["without a"]
    assert (expected.abs() > 3 * stderr).float().mean() > 0.5  # the test has something to find
    z = (score - expected) / stderr
    assert z.abs().max() < 5
    assert z.mean().abs() < 3 / len(z) ** 0.5
    assert set(table.groups) == {"a"} and table.methods == ("exact",)


def test_bad_plans_are_refused() -> None:
    pattern = message(
        "the timestep plan has too few or too many timesteps",
        "199 strata of 1 draws",
        "1 to 198 strata, at least 1 draw, and 2 evaluations for a standard error",
        "choose 2 to 198 strata, or a grid of that many timesteps",
    )
    with pytest.raises(ConfigError, match=pattern):
        Scoring(strata=199, draws=1).plan(SCHEDULE)
    pattern = message(
        "timesteps outside the range of the ELBO",
        "[0, 199]",
        "1 <= t <= 198 (schedule of 200 timesteps)",
        "choose start, stop and step inside 1..198",
    )
    with pytest.raises(ConfigError, match=pattern):
        Scoring(grid=(0, 200, 199), draws=1).plan(SCHEDULE)
    pattern = message(
        "the scoring batch size is out of range",
        0,
        "batch_size >= 1",
        "set scoring.batch_size to how many images the device holds, e.g. 256",
    )
    with pytest.raises(ConfigError, match=pattern):
        Scoring(batch_size=0).plan(SCHEDULE)
