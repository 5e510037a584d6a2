"""Distances between vectors, and how far pictures move without groups."""

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


def mean_distance(x: Tensor, other: Tensor) -> Tensor:
    """``‖x − x'‖ / √d``, the root mean square difference of the d values of each row.

    Args:
        x: ``[rows, ...]``, pictures in [-1, 1] or features.
        other: Likewise, or one row for all.

    Returns:
        ``[rows]`` float64; of pictures in [0, 2].
    """
    return (x.double() - other.double()).flatten(1).square().mean(dim=1).sqrt()


def counterfactual_radius(distances: Tensor) -> tuple[Tensor, Tensor]:
    """``CR = max_k ‖x − x_{−k}‖`` (Dai and Gifford, arXiv 2406.07908), and the group that reaches it.

    Args:
        distances: ``[queries, groups]`` between what the full model draws, and what is drawn from the same
            noise without each group.

    Returns:
        ``[queries]`` radii and ``[queries]`` positions of groups.
    """
    radii, groups = distances.max(dim=1)
    return radii, groups
