"""Targets of the unlearning objectives.

ReTrack (methods: GUDA, arXiv 2601.22651, section 4; ReTrack, Shi et al. 2025). For a forget sample
noised to ``x_t``, the noise that an ideal model trained on the retain items ``a_r`` alone would predict:

``v_r = (x_t − γ a_r) / σ``,  ``w = softmax_r(−‖x_t − γ a_r‖² / 2σ²)``,  target ``Σ_r w_r v_r``.

Since ``Σ w_r = 1``, the target is ``(x_t − γ ā) / σ`` with ``ā = Σ_r w_r a_r``: two matrix products.
Written as noise plus correction it is ``ε + Σ_r w_r δ_r`` with ``δ_r = (γ/σ)(a_f − a_r)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from guda_lightning.functional.distances import squared_distances

_LOG_ZERO_FLOAT32 = math.log(2.0**-150)  # below half the smallest float32, exp() rounds to exactly 0


@dataclass(frozen=True)
class RetainPosterior:
    """The retain set as seen from noised forget samples.

    Attributes:
        mean: ``[batch, dims]`` in the dtype of ``x_t``, ā (with a cap: the mean of the a_r that the capped
            corrections point to).
        log_density: ``[batch]`` float64, ``log mean_r exp(−‖x_t − γ a_r‖² / 2σ²)`` over the neighbours used.
        effective_neighbours: ``[batch]`` float64, ``1 / Σ w²`` in [1, neighbours].
        underflow: ``[batch]`` bool, whether every unstabilised ``exp(−d²/2σ²)`` is 0 in float32, so
            that code without a log-sum-exp would train towards the zero vector.
    """

    mean: Tensor
    log_density: Tensor
    effective_neighbours: Tensor
    underflow: Tensor


def retain_posterior(
    x_t: Tensor,
    x0: Tensor,
    gamma: Tensor,
    sigma: Tensor,
    retain: Tensor,
    neighbours: Tensor | None = None,
    kl_cap: float | None = None,
) -> RetainPosterior:
    """Posterior over retain items given noised forget samples, without a batch × items × dims tensor.

    Computed in float64: where σ is small, distances taken from inner products cancel, and the bfloat16
    or TF32 products of autocast and GPUs would leave nothing of them.

    Args:
        x_t: ``[batch, dims]`` noised forget samples.
        x0: ``[batch, dims]`` the clean forget samples (used by the cap only).
        gamma: ``[batch, 1]``.
        sigma: ``[batch, 1]``.
        retain: ``[items, dims]`` clean retain samples; given in float64 they need no copy at each call.
        neighbours: ``[batch, K]`` int64 rows of ``retain`` to sum over; None sums over all.
        kl_cap: Positive: each correction shrinks to ``‖δ_r‖ <= sqrt(2 · kl_cap)``. None leaves them alone.

    Returns:
        The posterior's mean and its diagnostics; NaN where a sample, or σ, has no weights.
    """
    dtype = x_t.dtype
    x_t, x0, gamma, sigma = x_t.double(), x0.double(), gamma.double(), sigma.double()
    if neighbours is None:
        retain = retain.double()
    distances = _distances(x_t, gamma, retain, neighbours)
    logits = -distances / (2 * sigma.square())
    weights = torch.softmax(logits, dim=1)
    if kl_cap is None:
        mean = _weighted_sum(weights, retain, neighbours)
    else:
        # δ_r shrinks by s_r, that is a_r moves to a_f − s_r (a_f − a_r).
        offsets = _distances(x0, torch.ones_like(gamma), retain, neighbours).clamp_min(0).sqrt()
        shrink = (math.sqrt(2 * kl_cap) * sigma / (gamma * offsets)).clamp(max=1.0)
        shrunk = weights * shrink
        mean = (1 - shrunk.sum(dim=1, keepdim=True)) * x0 + _weighted_sum(shrunk, retain, neighbours)
    return RetainPosterior(
        mean=mean.to(dtype),
        log_density=torch.logsumexp(logits, dim=1) - math.log(logits.shape[1]),
        effective_neighbours=weights.square().sum(dim=1).reciprocal(),
        underflow=logits.amax(dim=1) < _LOG_ZERO_FLOAT32,
    )


def nearest_neighbours(samples: Tensor, retain: Tensor, count: int, chunk: int = 256) -> Tensor:
    """The ``count`` retain items nearest to each clean sample, ``[samples, count]`` int64.

    Args:
        samples: ``[samples, dims]``.
        retain: ``[items, dims]``, at least ``count`` items.
        count: Neighbours per sample.
        chunk: Samples per distance matrix, to bound memory.
    """
    items, rows = retain.double(), []
    for start in range(0, len(samples), chunk):
        part = samples[start : start + chunk].double()
        rows.append(squared_distances(part, items).topk(count, largest=False).indices)
    return torch.cat(rows)


def density_ratio(log_retain: Tensor, log_forget: Tensor, num_retain: int, num_forget: int) -> Tensor:
    """``q_t(x_t | retain) / q_t(x_t | all)`` per sample, from two log mean densities (full ReTrack).

    ``q_all = (n_r q_r + n_f q_f) / n``, so the ratio is at most ``n / n_r``.

    Args:
        log_retain: ``[batch]`` log mean density over the retain set.
        log_forget: ``[batch]`` log mean density over the forget set.
        num_retain: Number of retain samples.
        num_forget: Number of forget samples.

    Returns:
        ``[batch]``.
    """
    share = math.log(num_retain / (num_retain + num_forget)), math.log(num_forget / (num_retain + num_forget))
    log_all = torch.logaddexp(log_retain + share[0], log_forget + share[1])
    return (log_retain - log_all).exp()


def _distances(x: Tensor, gamma: Tensor, items: Tensor, neighbours: Tensor | None) -> Tensor:
    """``‖x − γ a_r‖²``, ``[batch, items or K]``: by inner products over all items, or one by one over K."""
    if neighbours is not None:
        columns = [(x - gamma * items[rows]).square().sum(dim=1) for rows in neighbours.unbind(1)]
        return torch.stack(columns, dim=1)
    return squared_distances(x, items, gamma)


def _weighted_sum(weights: Tensor, items: Tensor, neighbours: Tensor | None) -> Tensor:
    """``Σ_r w_r a_r``, ``[batch, dims]`` float64."""
    if neighbours is None:
        return weights @ items
    total = weights.new_zeros(len(weights), items.shape[1])
    for weight, rows in zip(weights.unbind(1), neighbours.unbind(1), strict=True):
        total.addcmul_(weight.unsqueeze(1), items[rows].to(weights))
    return total
