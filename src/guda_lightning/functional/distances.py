"""Squared distances between two sets of vectors."""

from __future__ import annotations

from torch import Tensor


def squared_distances(x: Tensor, items: Tensor, gamma: Tensor | float = 1.0) -> Tensor:
    """``‖x_b − γ_b a_r‖²`` by inner products, without a batch × items × dims tensor.

    Exact where all sums are whole numbers below 2⁵³; else what distances have less than norms is lost to
    rounding, and a distance may come out slightly below 0. Give float64.

    Args:
        x: ``[batch, dims]``.
        items: ``[items, dims]`` a_r.
        gamma: ``[batch, 1]`` or a number, what each item is multiplied by.

    Returns:
        ``[batch, items]``.
    """
    norms = gamma * gamma * items.square().sum(dim=1)
    return x.square().sum(dim=1, keepdim=True) - 2 * gamma * (x @ items.T) + norms
