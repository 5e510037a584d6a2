from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from guda_lightning.functional.curation import (
    group_means,
    improvements,
    loss_weights,
    pseudo_groups,
    removal_effects,
)
from guda_lightning.functional.schedule import NoiseSchedule
from toys import GaussianDenoiser, posterior_noise


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 5))
def test_the_effect_of_a_removal_is_a_weighted_sum_of_means(seed: int, targets: int, groups: int) -> None:
    owners = torch.randint(-1, targets, (30,), generator=generator(seed))
    owners[: 2 * targets] = torch.arange(2 * targets) // 2  # two of each at least; -1 is in no group
    members = torch.stack([owners == target for target in range(targets)])
    scores, losses = (
        torch.randn(30, groups, generator=generator(seed)),
        torch.rand(30, generator=generator(1)),
    )
    weights = loss_weights(group_means(losses, members))
    found = removal_effects(scores, members, weights)
    for group in range(groups):
        expected, total = 0.0, 0.0
        for target in range(targets):
            own = [query for query in range(30) if owners[query] == target]
            loss = sum(float(losses[query]) for query in own) / len(own)
            expected += loss * sum(float(scores[query, group]) for query in own) / len(own)
            total += loss
        assert float(found.value[group]) == pytest.approx(expected / total, abs=1e-6)
    assert float(weights.sum()) == pytest.approx(1)


def test_the_interval_is_that_of_scipy() -> None:
    one, other = torch.randn(9, 1, generator=generator(0)).double(), 3 * torch.randn(4, 1).double()
    alone = removal_effects(one, torch.ones(1, 9, dtype=torch.bool), torch.ones(1))
    expected = stats.ttest_1samp(one[:, 0].numpy(), 0).confidence_interval(0.95)
    assert (float(alone.low), float(alone.high)) == pytest.approx(tuple(expected), rel=1e-6)
    members = torch.tensor([[True] * 9 + [False] * 4, [False] * 9 + [True] * 4])
    both = removal_effects(torch.cat([one, other]), members, torch.tensor([0.7, 0.3]).double(), level=0.9)
    welch = stats.ttest_ind(0.7 * one[:, 0].numpy(), -0.3 * other[:, 0].numpy(), equal_var=False)
    assert (float(both.low), float(both.high)) == pytest.approx(
        tuple(welch.confidence_interval(0.9)), rel=1e-6
    )


def test_scores_without_any_spread_have_an_interval_of_no_width() -> None:
    found = removal_effects(torch.full((4, 2), -1.0), torch.ones(1, 4, dtype=torch.bool), torch.ones(1))
    assert found.value.tolist() == found.low.tolist() == found.high.tolist() == [-1, -1]


def test_the_drop_of_the_worst_groups_loss_is_that_of_the_closed_form() -> None:
    """A linear-Gaussian model: its mean is that of all data, of which a third is a source far away."""
    schedule = NoiseSchedule.from_alphas_cumprod(DDPMScheduler(num_train_timesteps=50).alphas_cumprod)
    dims, spread, near, far = 16, 0.5, 0.0, 1.2
    full = 2 / 3 * near + 1 / 3 * far
    queries = near + spread * torch.randn(400, dims, generator=generator(0)).double()
    scores, expected = torch.zeros(400), 0.0
    for t in range(5, 50, 5):
        noise = torch.randn(400, dims, generator=generator(t)).double()
        gamma, sigma = float(schedule.gamma[t]), float(schedule.sigma[t])
        x_t, timesteps = gamma * queries + sigma * noise, torch.full((400,), t)
        errors = [
            (noise - GaussianDenoiser(schedule, torch.full((dims,), mean), spread)(x_t, timesteps))
            .square()
            .sum(dim=1)
            for mean in (full, near)
        ]
        scores += (errors[1] - errors[0]).float()  # without the source minus with it
        slope = sigma * gamma / (gamma**2 * spread**2 + sigma**2)
        expected -= dims * slope**2 * ((near - full) ** 2)
    members = torch.ones(1, 400, dtype=torch.bool)
    found = removal_effects(scores[:, None], members, torch.ones(1), level=0.999)
    assert float(found.low) < expected < float(found.high) < 0
    assert float(found.value) == pytest.approx(expected, rel=0.1)


def test_a_group_of_shuffled_images_harms_and_the_rest_of_a_class_helps() -> None:
    """Exact models: the posterior mean over all training images, and over those that are left."""
    digits, rng = load_digits(), np.random.default_rng(0)
    threes = (digits.images[digits.target == 3].reshape(-1, 64) / 8 - 1)[:130]
    shuffled = rng.permuted(threes[:100], axis=1)
    atoms = torch.from_numpy(np.concatenate([threes[:50], shuffled]))
    group = torch.tensor([0] * 50 + [1] * 100)
    queries, schedule = torch.from_numpy(threes[100:]), DDPMScheduler(50, beta_schedule="squaredcos_cap_v2")
    gammas = NoiseSchedule.from_alphas_cumprod(schedule.alphas_cumprod).gamma
    scores = torch.zeros(len(queries), 2)
    for t in (36, 40, 44, 47):
        gamma = gammas[t].expand(len(queries), 1).double()
        sigma = (1 - gamma.square()).sqrt()
        noise = torch.randn(queries.shape, generator=generator(t)).double()
        x_t = gamma * queries + sigma * noise
        errors = [
            (noise - posterior_noise(x_t, gamma, sigma, kept)).square().sum(dim=1)
            for kept in (atoms, atoms[group != 0], atoms[group != 1])
        ]
        scores += torch.stack(errors[1:], dim=1).float() - errors[0][:, None].float()
    found = removal_effects(scores, torch.ones(1, len(queries), dtype=torch.bool), torch.ones(1))
    assert found.low[0] > 0 > found.high[1]


def test_pseudo_groups_are_the_signs_of_the_first_component() -> None:
    side = torch.arange(40) % 3 == 0
    towards = torch.where(side[:, None], torch.tensor([1.0, 0, 0, 0]), torch.tensor([0, 0, 1.0, 0]))
    scores = (towards + 0.2 * torch.randn(40, 4, generator=generator(0))) * torch.rand(
        40, 1, generator=generator(1)
    ).add(0.1)
    found = pseudo_groups(scores)
    assert found.tolist() in (side.tolist(), (~side).tolist())
    rows = scores / scores.norm(dim=1, keepdim=True)
    of_sklearn = PCA(1).fit_transform(rows.double().numpy())[:, 0] > 0
    assert found.tolist() in (of_sklearn.tolist(), (~of_sklearn).tolist())


def test_queries_that_differ_in_size_alone_are_not_split() -> None:
    assert not pseudo_groups(torch.rand(7, 1, generator=generator(0)) * torch.tensor([1.0, 2, 3])).any()


def test_the_spread_of_seeds_is_that_of_scipy() -> None:
    after = torch.tensor([[1.0, 1.2, 0.9], [2.1, 1.8, 2.3]])
    gains, leads = improvements(2.0, after)
    pooled = stats.ttest_ind(after[1].numpy(), after[0].numpy()).confidence_interval(0.95)
    assert (float(leads.low), float(leads.high)) == pytest.approx(tuple(pooled), rel=1e-5)
    assert gains.value.tolist() == pytest.approx([2 - 3.1 / 3, 2 - 6.2 / 3], rel=1e-6)
    spread = math.sqrt((after[0].var() + after[1].var()) / 2)
    half = stats.t.ppf(0.975, 4) * spread * math.sqrt(4 / 3)
    assert (gains.value - gains.low).tolist() == pytest.approx([half, half], rel=1e-5)


def test_one_seed_has_no_spread() -> None:
    gains, leads = improvements(2.0, torch.tensor([[1.0], [2.5]]))
    assert gains.value.tolist() == [1, -0.5] and leads.value.tolist() == [1.5]
    assert gains.low.isnan().all() and leads.high.isnan().all()
