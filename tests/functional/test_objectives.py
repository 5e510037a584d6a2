from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp, softmax
from scipy.stats import multivariate_normal
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from guda_lightning.functional.objectives import density_ratio, nearest_neighbours, retain_posterior
from guda_lightning.functional.prediction import add_noise
from guda_lightning.functional.schedule import NoiseSchedule

SCHEDULE = NoiseSchedule.from_alphas_cumprod(DDPMScheduler(beta_schedule="squaredcos_cap_v2").alphas_cumprod)


def forget_batch(
    batch: int, dims: int, items: int, seed: int = 0, dtype: torch.dtype = torch.float64
) -> dict[str, Tensor]:
    """Noised forget samples at timesteps from 1 to 990, and a retain set."""
    generator = torch.Generator().manual_seed(seed)
    x0 = torch.randn(batch, dims, generator=generator, dtype=torch.float64).clamp(-1, 1)
    retain = torch.randn(items, dims, generator=generator, dtype=torch.float64).clamp(-1, 1)
    noise = torch.randn(batch, dims, generator=generator, dtype=torch.float64)
    t = torch.linspace(1, 990, batch).long()
    gamma, sigma = SCHEDULE.at(t, x0)
    parts = {
        "x_t": add_noise(x0, noise, gamma, sigma),
        "x0": x0,
        "gamma": gamma,
        "sigma": sigma,
        "retain": retain,
    }
    return {name: part.to(dtype) for name, part in parts.items()}


def target(batch: dict[str, Tensor], mean: Tensor) -> Tensor:
    """The noise that leads from the posterior mean to x_t."""
    return (batch["x_t"] - batch["gamma"] * mean) / batch["sigma"]


def reference(
    batch: dict[str, Tensor], neighbours: Tensor | None = None, kl_cap: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Target ``ε + Σ_r w_r δ_r`` and log density, term by term over a batch × neighbours × dims array."""
    x_t, x0, gamma, sigma, retain = (batch[name].double().numpy() for name in batch)
    rows = np.arange(len(retain))[None] if neighbours is None else neighbours.numpy()
    a = np.broadcast_to(retain[rows], (len(x0), rows.shape[1], x0.shape[1]))
    logits = -np.square(x_t[:, None] - gamma[:, None] * a).sum(axis=2) / (2 * sigma**2)
    delta = (gamma / sigma)[:, None] * (x0[:, None] - a)
    if kl_cap is not None:
        norm = np.linalg.norm(delta, axis=2, keepdims=True)
        delta *= np.minimum(1, math.sqrt(2 * kl_cap) / np.maximum(norm, 1e-300))
        assert np.linalg.norm(delta, axis=2).max() <= math.sqrt(2 * kl_cap) * (1 + 1e-12)
    noise = (x_t - gamma * x0) / sigma
    weights = softmax(logits, axis=1)
    return noise + np.einsum("bk,bkd->bd", weights, delta), logsumexp(logits, axis=1) - math.log(
        rows.shape[1]
    )


@pytest.mark.parametrize("kl_cap", [None, 1.0, 1e-3, 1e6])
@pytest.mark.parametrize("count", [None, 1, 5])
def test_the_target_is_that_of_brute_force(count: int | None, kl_cap: float | None) -> None:
    batch = forget_batch(batch=12, dims=24, items=40)
    neighbours = None if count is None else nearest_neighbours(batch["x0"], batch["retain"], count)
    posterior = retain_posterior(**batch, neighbours=neighbours, kl_cap=kl_cap)
    expected, log_density = reference(batch, neighbours, kl_cap)
    np.testing.assert_allclose(target(batch, posterior.mean), expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(posterior.log_density, log_density, rtol=1e-9, atol=1e-9)


@given(
    dims=st.integers(1, 6),
    items=st.integers(1, 12),
    cap=st.none() | st.floats(1e-4, 1e4),
    seed=st.integers(0, 999),
)
@settings(deadline=None, max_examples=60)
def test_the_target_is_that_of_brute_force_for_any_set(
    dims: int, items: int, cap: float | None, seed: int
) -> None:
    batch = forget_batch(5, dims, items, seed)
    posterior = retain_posterior(**batch, kl_cap=cap)
    expected, log_density = reference(batch, None, cap)
    np.testing.assert_allclose(target(batch, posterior.mean), expected, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(posterior.log_density, log_density, rtol=1e-8, atol=1e-8)
    assert (
        (posterior.effective_neighbours >= 1 - 1e-9) & (posterior.effective_neighbours <= items + 1e-9)
    ).all()
    # nothing is lost by listing every item as a neighbour
    every = retain_posterior(**batch, neighbours=torch.arange(items).expand(5, -1), kl_cap=cap)
    torch.testing.assert_close(every.mean, posterior.mean, rtol=1e-9, atol=1e-9)


def test_the_target_is_the_score_of_the_noised_retain_set() -> None:
    """``−σ ∇ log q_t(x_t)`` of the mixture of Gaussians around γ a_r, by autograd."""
    batch = forget_batch(batch=6, dims=3, items=7)
    x_t = batch["x_t"].clone().requires_grad_()
    distance = (x_t.unsqueeze(1) - batch["gamma"].unsqueeze(1) * batch["retain"]).square().sum(dim=2)
    torch.logsumexp(-distance / (2 * batch["sigma"] ** 2), dim=1).sum().backward()
    expected = -batch["sigma"] * x_t.grad
    torch.testing.assert_close(target(batch, retain_posterior(**batch).mean), expected, rtol=1e-9, atol=1e-9)


def test_effective_neighbours_span_one_to_all() -> None:
    batch = forget_batch(batch=3, dims=8, items=20)
    batch["gamma"][2], batch["sigma"][2] = 0.0, 1.0  # pure noise: every item is as likely
    effective = retain_posterior(**batch).effective_neighbours
    assert effective[0].item() == pytest.approx(1)
    assert effective[2].item() == pytest.approx(20)


def test_in_real_dimensions_naive_weights_vanish_and_ours_do_not() -> None:
    batch = forget_batch(batch=16, dims=3072, items=50, dtype=torch.float32)
    x_t, gamma, sigma, retain = (batch[name] for name in ("x_t", "gamma", "sigma", "retain"))
    v = (x_t[:, None] - gamma[:, None] * retain) / sigma[:, None]
    naive = torch.exp(-v.square().sum(dim=2) / 2)
    naive_target = ((naive / (naive.sum(dim=1, keepdim=True) + 1e-8)).unsqueeze(2) * v).sum(dim=1)
    assert torch.count_nonzero(naive_target) == 0

    posterior = retain_posterior(**batch)
    assert posterior.underflow.all()
    assert posterior.mean.dtype == torch.float32
    expected, log_density = reference(batch)
    relative = np.linalg.norm(target(batch, posterior.mean).numpy() - expected, axis=1) / np.linalg.norm(
        expected, axis=1
    )
    assert relative.max() < 1e-5
    np.testing.assert_allclose(posterior.log_density, log_density, rtol=1e-9)


@given(logit=st.floats(-120, -1))
@settings(deadline=None, max_examples=200)
def test_underflow_means_that_float32_exp_is_zero(logit: float) -> None:
    # one item at the origin: the only logit is −‖x_t‖² / 2
    x = torch.tensor([[math.sqrt(-2 * logit)]], dtype=torch.float64)
    one, zero = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    underflow = retain_posterior(x, zero, one, one, retain=zero).underflow
    if abs(logit - math.log(2.0**-150)) > 1e-4:  # float32 itself cannot tell closer
        assert underflow.item() == (np.exp(np.float32(logit)) == 0)


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "autocast"])
def test_near_duplicates_are_told_apart_at_the_smallest_noise(autocast: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    batch = forget_batch(batch=8, dims=3072, items=30)
    batch["gamma"], batch["sigma"] = SCHEDULE.at(torch.full((8,), 2), batch["x0"])
    steps = torch.randint(-1, 2, (16, 3072), generator=generator) / 127.5  # one grey level
    batch["retain"] = torch.cat([batch["retain"], batch["x0"].repeat(2, 1) + steps])
    batch["x_t"] = (
        batch["gamma"] * batch["x0"] + batch["sigma"] * torch.randn(8, 3072, generator=generator).double()
    )
    batch = {name: part.float() for name, part in batch.items()}
    expected, _ = reference(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        mean = retain_posterior(**batch).mean
    relative = np.linalg.norm(target(batch, mean).numpy() - expected, axis=1) / np.linalg.norm(
        expected, axis=1
    )
    assert relative.max() < 1e-4


def test_a_cap_of_the_paper_leaves_next_to_no_correction() -> None:
    batch = forget_batch(batch=8, dims=3072, items=30)
    noise = target(batch, batch["x0"])
    corrections = [
        (target(batch, retain_posterior(**batch, kl_cap=cap).mean) - noise).norm(dim=1) for cap in (1.0, None)
    ]
    assert corrections[0].max() <= math.sqrt(2) * (1 + 1e-9)
    assert (corrections[1][:4] > 10 * corrections[0][:4]).all()


def test_a_forget_sample_among_the_retained_needs_no_correction() -> None:
    batch = forget_batch(batch=4, dims=16, items=5)
    batch["retain"] = torch.cat([batch["retain"], batch["x0"]])
    for cap in (None, 1.0):
        posterior = retain_posterior(**batch, kl_cap=cap)
        assert torch.isfinite(posterior.mean).all()
        torch.testing.assert_close(posterior.mean[0], batch["x0"][0])  # at t = 1 nothing else is as near


@pytest.mark.parametrize("chunk", [1, 7, 256])
def test_nearest_neighbours_are_those_of_brute_force(chunk: int) -> None:
    batch = forget_batch(batch=20, dims=30, items=60)
    samples, retain = batch["x0"].float(), batch["retain"].float()
    distance = np.linalg.norm(samples.double().numpy()[:, None] - retain.double().numpy(), axis=2)
    expected = np.argsort(distance, axis=1)[:, :10]
    assert nearest_neighbours(samples, retain, 10, chunk).tolist() == expected.tolist()


@given(seed=st.integers(0, 999), num_retain=st.integers(1, 9), num_forget=st.integers(1, 9))
@settings(deadline=None, max_examples=40)
def test_the_density_ratio_is_that_of_the_two_mixtures(seed: int, num_retain: int, num_forget: int) -> None:
    batch = forget_batch(batch=4, dims=3, items=num_retain + num_forget, seed=seed)
    retain, forget = batch["retain"][:num_retain], batch["retain"][num_retain:]
    of_retain, of_forget = (
        retain_posterior(**{**batch, "retain": part}).log_density for part in (retain, forget)
    )
    ours = density_ratio(of_retain, of_forget, num_retain, num_forget)

    def log_mean_density(row: int, items: Tensor) -> float:
        gamma, sigma = float(batch["gamma"][row]), float(batch["sigma"][row])
        logs = [
            multivariate_normal.logpdf(batch["x_t"][row].numpy(), gamma * a.numpy(), sigma**2) for a in items
        ]
        return float(logsumexp(logs) - math.log(len(items)))

    for row in range(4):
        expected = math.exp(log_mean_density(row, retain) - log_mean_density(row, batch["retain"]))
        assert ours[row].item() == pytest.approx(expected, rel=1e-8, abs=1e-300)
        assert 0 <= ours[row] <= (num_retain + num_forget) / num_retain * (1 + 1e-9)


def test_the_density_ratio_survives_densities_below_every_float() -> None:
    far = torch.tensor([-5000.0, -9000.0, -5000.0], dtype=torch.float64)
    near = torch.tensor([-5000.0, -5000.0, -9000.0], dtype=torch.float64)
    assert density_ratio(far, near, 3, 1).tolist() == pytest.approx([1, 0, 4 / 3])


class LargestTensor(TorchDispatchMode):
    """Records the number of elements of the largest tensor that any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.numel = max(
            [self.numel, *(leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, Tensor))]
        )
        return out


@pytest.mark.parametrize("kl_cap", [None, 1.0])
@pytest.mark.parametrize("count", [None, 100])
def test_no_tensor_of_batch_times_items_times_dims_is_made(count: int | None, kl_cap: float | None) -> None:
    batch = forget_batch(batch=32, dims=96, items=200, dtype=torch.float32)
    with LargestTensor() as largest:
        neighbours = None if count is None else nearest_neighbours(batch["x0"], batch["retain"], count)
        retain_posterior(**batch, neighbours=neighbours, kl_cap=kl_cap)
    assert largest.numel == 200 * 96  # the retain set itself; batch × items × dims is 32 times that
    with LargestTensor() as largest:  # and the measurement sees what it should see
        batch["x_t"].unsqueeze(1) - batch["retain"]
    assert largest.numel == 32 * 200 * 96


def test_retain_neighbours_need_no_copy_of_the_retain_set() -> None:
    batch = forget_batch(batch=8, dims=50, items=500, dtype=torch.float32)
    with LargestTensor() as largest:
        retain_posterior(**batch, neighbours=torch.arange(24).view(8, 3), kl_cap=1.0)
    assert largest.numel == 8 * 50


@pytest.mark.parametrize(
    "broken", [{"retain": torch.tensor([[0.0], [float("nan")]])}, {"sigma": torch.zeros(1, 1)}]
)
def test_a_target_without_weights_is_no_number(broken: dict[str, Tensor]) -> None:
    one = torch.ones(1, 1)
    batch = {"x_t": 2 * one, "x0": one, "gamma": one, "sigma": one, "retain": torch.tensor([[0.0], [1.0]])}
    assert retain_posterior(**batch).mean.isfinite().all()
    assert retain_posterior(**{**batch, **broken}).mean.isnan().all()
