"""Importance weights of samples from a mixture of two noised samples (SISS, arXiv 2503.01034, section 4)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def mixture_weights(
    m: Tensor, x: Tensor, a: Tensor, gamma: Tensor, sigma: Tensor, share: float
) -> tuple[Tensor, Tensor]:
    """``p(m|x)/q(m)`` and ``p(m|a)/q(m)`` with ``q = (1 − λ) p(·|x) + λ p(·|a)``, ``p(·|x) = N(γ x, σ²)``.

    ``w_x = 1 / ((1 − λ) + λ e^{d_x − d_a})`` and ``w_a = 1 / ((1 − λ) e^{d_a − d_x} + λ)`` with
    ``d = ‖m − γ ·‖² / 2σ²``, so ``(1 − λ) w_x + λ w_a = 1``. Both are computed as logarithms in float64:
    in high dimensions the exponents are thousands, whose exponentials float32 and float64 lack.

    Args:
        m: ``[batch, dims]`` samples of the mixture.
        x: ``[batch, dims]`` clean samples that weigh 1 − λ in it.
        a: ``[batch, dims]`` clean samples that weigh λ.
        gamma: ``[batch, 1]``.
        sigma: ``[batch, 1]``, not 0.
        share: λ in [0, 1].

    Returns:
        ``w_x`` and ``w_a``, ``[batch]`` in the dtype of ``m``, each at most 1/(1 − λ) and 1/λ.
    """
    m, gamma, sigma, dtype = m.double(), gamma.double(), sigma.double(), m.dtype
    d_x, d_a = ((m - gamma * clean.double()).square().sum(dim=1) for clean in (x, a))
    difference = (d_x - d_a) / (2 * sigma.square().squeeze(1))
    of_x = torch.full_like(difference, math.log1p(-share) if share < 1 else -math.inf)
    of_a = torch.full_like(difference, math.log(share) if share > 0 else -math.inf)
    w_x = -torch.logaddexp(of_x, of_a + difference)
    w_a = -torch.logaddexp(of_x - difference, of_a)
    return w_x.exp().to(dtype), w_a.exp().to(dtype)
