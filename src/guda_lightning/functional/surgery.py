"""Factors that put the gradients of two losses together: ``g = g_m + factor · g_a``.

``g_m`` is the gradient of what is to be preserved ("remember"), ``g_a`` that of the forget loss; all that a
factor depends on is their inner product and their squared norms. Scaling both losses alike changes no factor.
"""

from __future__ import annotations

from torch import Tensor


def constrained_factor(inner: Tensor, forget_square: Tensor, eta: float) -> Tensor:
    """``max(η − ⟨g_m, g_a⟩/‖g_a‖², 0)``: the least of ``g_a`` with which ``⟨g, g_a⟩ >= η ‖g_a‖²``.

    So every step lowers the forget loss to first order, and is otherwise as near to ``g_m`` as can be
    (EraseDiff, arXiv 2401.05779, section 4; dynamic barrier gradient descent of BOME, arXiv 2209.08709).

    Args:
        inner: ``⟨g_m, g_a⟩``, a scalar.
        forget_square: ``‖g_a‖²``, a scalar; 0 gives the factor 0.
        eta: η >= 0.

    Returns:
        A scalar >= 0.
    """
    safe = forget_square.where(forget_square > 0, 1.0)
    return (eta - inner / safe).clamp_min(0).where(forget_square > 0, 0.0)


def relative_factor(preserve_square: Tensor, forget_square: Tensor, strength: float) -> Tensor:
    """``−strength · ‖g_m‖/‖g_a‖``: ascent of the forget loss, its gradient as long as a share of ``g_m``.

    SISS (arXiv 2503.01034, section 4) with a norm that follows ``g_m``; the paper holds it fixed.

    Args:
        preserve_square: ``‖g_m‖²``, a scalar.
        forget_square: ``‖g_a‖²``, a scalar; 0 gives the factor 0.
        strength: Length of the second part over that of the first, >= 0.

    Returns:
        A scalar <= 0.
    """
    safe = forget_square.where(forget_square > 0, 1.0)
    return (-strength * (preserve_square / safe).sqrt()).where(forget_square > 0, 0.0)
