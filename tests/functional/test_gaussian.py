"""Data models whose optimal denoiser is known, so that ELBOs and scores have exact values."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from scipy import stats
from torch import Tensor

from guda_lightning.functional.elbo import elbo, paired_difference, squared_error
from guda_lightning.functional.noise import gaussian_noise
from guda_lightning.functional.prediction import add_noise
from guda_lightning.functional.schedule import NoiseSchedule
from guda_lightning.functional.timesteps import TimestepPlan
from guda_lightning.types import Weighting

WEIGHTINGS: list[Weighting] = ["elbo", "uniform"]
Denoiser = Callable[[Tensor, Tensor, Tensor], Tensor]  # (x_t, γ, σ) -> ε̂


def ddpm(timesteps: int = 1000) -> NoiseSchedule:
    betas = DDPMScheduler(num_train_timesteps=timesteps, beta_end=0.02 * 1000 / timesteps).betas.double()
    return NoiseSchedule.from_alphas_cumprod(torch.cumprod(1 - betas, dim=0))


class Mixture:
    """``Σ_k weights_k N(means_k, std² I)``: one component per group."""

    def __init__(self, means: Sequence[Sequence[float]], std: float, weights: Sequence[float]) -> None:
        self.means, self.std = torch.tensor(means, dtype=torch.float64), std
        self.weights = torch.tensor(weights, dtype=torch.float64)

    def without(self, group: int) -> Mixture:
        keep = [k for k in range(len(self.means)) if k != group]
        weights = self.weights[keep] / self.weights[keep].sum()
        return Mixture(self.means[keep].tolist(), self.std, weights.tolist())

    def log_components(self, x_t: Tensor, gamma: Tensor, sigma: Tensor) -> Tensor:
        """``log (weights_k N(x_t; γ means_k, γ² std² + σ²))``, ``[..., groups]``; x_t is ``[..., dims]``."""
        variance = gamma**2 * self.std**2 + sigma**2
        distance = (x_t.unsqueeze(-2) - gamma.unsqueeze(-1) * self.means).square().sum(dim=-1)
        return (
            self.weights.log()
            - 0.5 * distance / variance
            - 0.5 * x_t.shape[-1] * (2 * torch.pi * variance).log()
        )

    def log_density(self, x_t: Tensor, gamma: Tensor, sigma: Tensor) -> Tensor:
        return torch.logsumexp(self.log_components(x_t, gamma, sigma), dim=-1)

    def denoise(self, x_t: Tensor, gamma: Tensor, sigma: Tensor) -> Tensor:
        """The optimal ε̂: ``(x_t − γ E[x_0 | x_t]) / σ``."""
        gain = gamma * self.std**2 / (gamma**2 * self.std**2 + sigma**2)
        responsibility = torch.softmax(self.log_components(x_t, gamma, sigma), dim=-1).unsqueeze(-1)
        per_group = self.means + gain.unsqueeze(-1) * (x_t.unsqueeze(-2) - gamma.unsqueeze(-1) * self.means)
        return (x_t - gamma * (responsibility * per_group).sum(dim=-2)) / sigma


def gaussian_error(schedule: NoiseSchedule, x0: Tensor, mean: Tensor, std: float) -> Tensor:
    """``E_ε ‖ε − ε̂‖²`` of ``N(mean, std² I)`` at every timestep, in closed form.

    With x_t = γ x_0 + σ ε: ``ε − ε̂ = (γ² std² ε − γσ (x_0 − mean)) / (γ² std² + σ²)``.
    """
    gamma, sigma = schedule.gamma, schedule.sigma
    variance = gamma**2 * std**2 + sigma**2
    bias = gamma**2 * sigma**2 * (x0 - mean).square().sum()
    return (bias + gamma**4 * std**4 * x0.numel()) / variance**2


def quadrature() -> tuple[Tensor, Tensor]:
    """Gauss–Hermite nodes and weights of one standard normal number."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    return torch.from_numpy(nodes).view(-1, 1), torch.from_numpy(weights / weights.sum())


def mixture_error(schedule: NoiseSchedule, x0: Tensor, model: Mixture) -> Tensor:
    """``E_ε ‖ε − ε̂‖²`` of a one-dimensional mixture at every timestep, by quadrature."""
    nodes, weights = quadrature()
    gamma, sigma = (v.view(-1, 1, 1) for v in (schedule.gamma, schedule.sigma))
    noise = nodes.expand(len(schedule), -1, -1)
    predicted = model.denoise(gamma * x0 + sigma * noise, gamma, sigma)
    return (noise - predicted).square().sum(dim=-1) @ weights


def weighted_sum(errors: Tensor, schedule: NoiseSchedule, weighting: Weighting) -> Tensor:
    """``Σ_t w_t E‖ε − ε̂‖²`` with weights written out from ᾱ alone."""
    bar = schedule.gamma**2
    snr = bar / (1 - bar)
    weights = 0.5 * (snr[:-1] - snr[1:]) / snr[1:]
    if weighting == "uniform":
        weights = torch.full_like(weights, 1 / (len(schedule) - 1))
    return (weights * errors[1:]).sum()


def measure(
    denoisers: Sequence[Denoiser],
    x0: Tensor,
    query_ids: Sequence[str],
    plan: TimestepPlan,
    schedule: NoiseSchedule,
    batch_size: int | None = None,
    seed: int = 0,
) -> tuple[Tensor, list[Tensor]]:
    """Timesteps and squared errors ``[queries, strata, draws]`` of each model, in batches of flat rows."""
    timesteps = plan.draw(seed, query_ids)
    draws = torch.arange(plan.draws).expand_as(timesteps).flatten()
    rows = torch.arange(len(query_ids)).repeat_interleave(plan.evaluations)
    errors: list[list[Tensor]] = [[] for _ in denoisers]
    for part in torch.arange(len(rows)).split(batch_size or len(rows)):
        t = timesteps.flatten()[part]
        names = [query_ids[row] for row in rows[part]]
        noise = gaussian_noise(seed, names, t, draws[part], x0.shape[1:]).double()
        gamma, sigma = schedule.at(t, noise)
        x_t = add_noise(x0[rows[part]], noise, gamma, sigma)
        for own, denoiser in zip(errors, denoisers, strict=True):
            own.append(squared_error(noise, denoiser(x_t, gamma, sigma)))
    return timesteps, [torch.cat(own).view_as(timesteps) for own in errors]


FULL = Mixture([[0.0, 0.0, 0.0, 0.0]], std=0.8, weights=[1.0])
COUNTERFACTUAL = Mixture([[0.5, -0.4, 0.3, 0.2]], std=0.9, weights=[1.0])
QUERY = torch.tensor([0.2, 0.7, -0.3, 0.4], dtype=torch.float64)
REPEATS = 1500


def exact_gaussian_elbo(model: Mixture, schedule: NoiseSchedule, weighting: Weighting) -> float:
    return -float(
        weighted_sum(gaussian_error(schedule, QUERY, model.means[0], model.std), schedule, weighting)
    )


@pytest.fixture(scope="module", params=[(24, 2), (48, 1), (49, 1)], ids=["2 draws", "1 draw", "1 draw, odd"])
def replicas(request: pytest.FixtureRequest) -> tuple[TimestepPlan, NoiseSchedule, Tensor, list[Tensor]]:
    """The same query under many names: each name is an independent repetition of the whole estimate."""
    schedule = ddpm()
    plan = TimestepPlan.stratified(schedule, *request.param)
    ids = [f"replica {i}" for i in range(REPEATS)]
    models = [FULL.denoise, COUNTERFACTUAL.denoise]
    return plan, schedule, *measure(models, QUERY.expand(REPEATS, -1), ids, plan, schedule)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_the_estimated_elbo_is_unbiased(
    replicas: tuple[TimestepPlan, NoiseSchedule, Tensor, list[Tensor]], weighting: Weighting
) -> None:
    plan, schedule, timesteps, errors = replicas
    for model, measured in zip((FULL, COUNTERFACTUAL), errors, strict=True):
        estimates = elbo(measured, timesteps, plan, schedule, weighting)
        exact = exact_gaussian_elbo(model, schedule, weighting)
        z = (estimates.mean() - exact) / (estimates.std() / REPEATS**0.5)
        assert abs(z) < 3.5
        assert estimates.std() < 0.5 * abs(exact)  # and the test has power: 3.5 of these are below 5 %


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_the_score_is_unbiased_and_its_standard_error_is_honest(
    replicas: tuple[TimestepPlan, NoiseSchedule, Tensor, list[Tensor]], weighting: Weighting
) -> None:
    plan, schedule, timesteps, errors = replicas
    score, stderr = paired_difference(*errors, timesteps, plan, schedule, weighting)
    exact = exact_gaussian_elbo(FULL, schedule, weighting) - exact_gaussian_elbo(
        COUNTERFACTUAL, schedule, weighting
    )
    z = (score.mean() - exact) / (stderr.square().mean().sqrt() / REPEATS**0.5)
    assert abs(z) < 3.5

    # the squared standard error is right on average, so the collapsed one is never too small ...
    variance = stderr.square()
    assert float(variance.mean()) == pytest.approx(float(score.var()), rel=0.15)
    # ... but it comes from few degrees of freedom (Satterthwaite: 2 E[V]² / Var[V], about 5 here), since
    # a few strata hold most of the variance: Student's interval covers as it says, ±1.96 a little less.
    freedom = 2 * float(variance.mean() ** 2 / variance.var())

    def coverage(width: float) -> float:
        return float(((score - exact).abs() <= width * stderr).double().mean())

    assert coverage(stats.t.ppf(0.975, freedom)) == pytest.approx(0.955, abs=0.02)
    assert 0.88 < coverage(1.96) < 0.96


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("num_strata", [8, 9])
def test_the_collapsed_standard_error_is_conservative(num_strata: int, weighting: Weighting) -> None:
    """Errors without noise: all that is left is the trend over timesteps, which pairs of strata overstate."""
    schedule = ddpm()
    plan = TimestepPlan.stratified(schedule, num_strata)
    timesteps = plan.draw(0, [f"replica {i}" for i in range(REPEATS)])
    full, counterfactual = (
        gaussian_error(schedule, QUERY, model.means[0], model.std) for model in (FULL, COUNTERFACTUAL)
    )
    score, stderr = paired_difference(
        full[timesteps], counterfactual[timesteps], timesteps, plan, schedule, weighting
    )
    exact = weighted_sum(counterfactual - full, schedule, weighting)
    assert abs(score.mean() - exact) < 3.5 * score.std() / REPEATS**0.5
    assert ((score - exact).abs() <= 1.96 * stderr).double().mean() >= 0.95
    assert stderr.square().mean() > score.var()


def test_pairing_the_noise_is_worth_it() -> None:
    schedule = ddpm()
    plan = TimestepPlan.stratified(schedule, 16)
    x0, models = QUERY.expand(300, -1), [FULL.denoise, COUNTERFACTUAL.denoise]
    timesteps, (full, counterfactual) = measure(models, x0, [f"{i}" for i in range(300)], plan, schedule)
    paired = paired_difference(full, counterfactual, timesteps, plan, schedule, "elbo")[0].std()
    shuffled = elbo(full, timesteps, plan, schedule, "elbo") - elbo(
        counterfactual.roll(1, 0), timesteps.roll(1, 0), plan, schedule, "elbo"
    )
    assert paired < 0.7 * shuffled.std()


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_the_closed_form_is_that_of_quadrature(weighting: Weighting) -> None:
    schedule, x0 = ddpm(), torch.tensor([0.3], dtype=torch.float64)
    model = Mixture([[-0.2]], std=0.7, weights=[1.0])
    closed = gaussian_error(schedule, x0, model.means[0], model.std)
    torch.testing.assert_close(mixture_error(schedule, x0, model), closed, rtol=1e-9, atol=1e-12)
    assert weighted_sum(closed, schedule, weighting) > 0


GROUPS = Mixture([[-0.6], [0.0], [0.7]], std=0.15, weights=[0.5, 0.3, 0.2])


@pytest.mark.parametrize("group", [0, 1, 2])
@pytest.mark.parametrize("query", [-0.6, 0.05, 0.8])
def test_the_exact_score_is_the_change_in_log_density(query: float, group: int) -> None:
    """With an ideal denoiser and many small steps the bound is tight: ΔELBO is Δ log p, in nats.

    The decoder term is left out, so log p is that of the least noised sample, averaged over its noise.
    """
    log_snr = torch.linspace(10, -12, 4000, dtype=torch.float64)
    schedule, x0 = NoiseSchedule.from_alphas_cumprod(log_snr.sigmoid()), torch.tensor([query]).double()
    models = GROUPS, GROUPS.without(group)
    full, counterfactual = (
        -float(weighted_sum(mixture_error(schedule, x0, model), schedule, "elbo")) for model in models
    )
    nodes, weights = quadrature()
    gamma, sigma = schedule.gamma[:1].view(1, 1), schedule.sigma[:1].view(1, 1)
    log_full, log_counterfactual = (
        float(model.log_density(gamma * x0 + sigma * nodes, gamma, sigma) @ weights) for model in models
    )
    assert full - counterfactual == pytest.approx(log_full - log_counterfactual, rel=0.01, abs=2e-3)
    own = abs(float(GROUPS.means[group]) - query) < 0.2
    assert (full > counterfactual) == own


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_leave_one_group_out_scores_match_their_exact_values(weighting: Weighting) -> None:
    schedule = ddpm()
    plan = TimestepPlan.stratified(schedule, 60, draws=4)
    x0 = GROUPS.means  # one query from the middle of each group
    models = [GROUPS, *(GROUPS.without(k) for k in range(3))]
    timesteps, (full, *rest) = measure([m.denoise for m in models], x0, ["a", "b", "c"], plan, schedule)
    exact = torch.tensor(
        [
            [float(weighted_sum(mixture_error(schedule, x, m), schedule, weighting)) for m in models]
            for x in x0
        ]
    )
    for k, counterfactual in enumerate(rest):
        score, stderr = paired_difference(full, counterfactual, timesteps, plan, schedule, weighting)
        expected = exact[:, k + 1] - exact[:, 0]  # sums of KL, the negatives of the ELBOs
        assert ((score - expected).abs() < 4 * stderr).all()
        assert score.argmax() == k
        assert score[k] > 4 * stderr[k]  # removing the query's own group makes it less likely
        if weighting == "elbo":  # removing another one makes it more likely: its mass is shared out
            others = [q for q in range(3) if q != k]
            assert (expected[others] < 0).all()


def test_scores_do_not_depend_on_batch_size_or_order() -> None:
    schedule = ddpm()
    plan = TimestepPlan.stratified(schedule, 6, draws=2)
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn(9, 4, generator=generator, dtype=torch.float64)
    ids = [f"query {i}" for i in range(9)]
    models = [FULL.denoise, COUNTERFACTUAL.denoise]

    def scores(order: list[int], batch_size: int | None) -> tuple[Tensor, Tensor]:
        names = [ids[i] for i in order]
        timesteps, errors = measure(models, x0[order], names, plan, schedule, batch_size)
        score, stderr = paired_difference(*errors, timesteps, plan, schedule, "elbo")
        back = torch.tensor(order).argsort()
        return score[back], stderr[back]

    expected = scores(list(range(9)), None)
    for order in (list(range(9)), [4, 0, 8, 2, 6, 1, 3, 7, 5]):
        for batch_size in (1, 5, 17, 108):
            torch.testing.assert_close(scores(order, batch_size), expected, rtol=1e-12, atol=1e-12)
    assert not torch.equal(
        scores([0], None)[0], measure(models, x0[:1], ["other"], plan, schedule)[1][0].sum()
    )


def test_another_seed_is_another_estimate_of_the_same_score() -> None:
    schedule = ddpm()
    plan = TimestepPlan.stratified(schedule, 40, draws=2)
    models = [FULL.denoise, COUNTERFACTUAL.denoise]
    results = []
    for seed in (0, 1):
        timesteps, errors = measure(models, QUERY.expand(1, -1), ["q"], plan, schedule, seed=seed)
        results.append(paired_difference(*errors, timesteps, plan, schedule, "elbo"))
    (a, se_a), (b, se_b) = results
    assert a != b
    assert (a - b).abs() < 4 * (se_a**2 + se_b**2).sqrt()
