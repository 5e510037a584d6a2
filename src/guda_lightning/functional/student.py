"""Student's distribution with ν degrees of freedom, without scipy.

``P(|t| > √ν / tan φ) = ∫_0^φ sin^{ν−1} / ∫_0^{π/2} sin^{ν−1}``, integrated by Gauss.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

_NODES, _WEIGHTS = (torch.from_numpy(values) for values in np.polynomial.legendre.leggauss(128))
_TOGETHER = 4096  # tails: 4 MB at all nodes


def t_quantile(tail: float, degrees: Tensor) -> Tensor:
    """The number that ``|t|`` exceeds with probability ``tail``, found by bisection.

    Relative error below 1e-9 up to ν = 1000.

    Args:
        tail: In (0, 1).
        degrees: ``[n]`` degrees of freedom ν >= 1.

    Returns:
        ``[n]`` float64.
    """
    degrees = degrees.to(torch.float64)
    low, high = torch.zeros_like(degrees), torch.full_like(degrees, math.pi / 2)
    for _ in range(100):
        angle = (low + high) / 2
        below = _share(angle, degrees) < tail
        low, high = torch.where(below, angle, low), torch.where(below, high, angle)
    return degrees.sqrt() / torch.tan(low)


def t_tail(value: Tensor, degrees: Tensor) -> Tensor:
    """The probability that ``t`` exceeds a number.

    Args:
        value: Of any shape, infinite ones included.
        degrees: ν >= 1, of a shape that broadcasts to that of ``value``; whole or not.

    Returns:
        Of the shape of ``value``, float64.
    """
    value = value.double()
    degrees = degrees.to(value).expand_as(value)
    angles = torch.atan2(degrees.sqrt(), value.abs())
    pairs = zip(angles.flatten().split(_TOGETHER), degrees.flatten().split(_TOGETHER), strict=True)
    half = torch.cat([_share(*pair) for pair in pairs]).view_as(value) / 2
    return torch.where(value < 0, 1 - half, half)


def _share(angle: Tensor, degrees: Tensor) -> Tensor:
    """The share of ``∫_0^{π/2} sin^{ν−1}`` that lies below angles, ``[n]`` in [0, π/2]."""
    half = torch.tensor(0.5, dtype=torch.float64)
    whole = (torch.lgamma(degrees / 2) + torch.lgamma(half) - torch.lgamma((degrees + 1) / 2)).exp() / 2
    heights = torch.sin(angle[:, None] * (_NODES + 1) / 2) ** (degrees[:, None] - 1)
    return angle / 2 * (heights @ _WEIGHTS) / whole
