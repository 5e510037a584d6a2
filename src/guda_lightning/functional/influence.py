"""What influences of training samples are weighed by, and their squares with standard errors."""

from __future__ import annotations

import torch
from torch import Tensor


def unit_rows(rows: Tensor) -> Tensor:
    """Vectors ``[rows, size]`` divided by their length; zeros stay zeros."""
    return torch.nn.functional.normalize(rows, dim=1, eps=torch.finfo(rows.dtype).tiny)


def self_influence(rows: Tensor, solved: Tensor) -> Tensor:
    """``gᵀ (H + λ)⁻¹ g`` of each vector.

    Args:
        rows: ``[rows, size]`` g.
        solved: ``[rows, size]`` ``(H + λ)⁻¹ g``.

    Returns:
        ``[rows]``, none negative.
    """
    return (rows * solved).sum(dim=1).clamp_min(0)


def relative_weights(influences: Tensor) -> Tensor:
    """``1 / sqrt(gᵀ (H + λ)⁻¹ g)``: no sample counts by its own size (RelatIF, arXiv 2003.11630).

    Args:
        influences: ``[samples]`` as ``self_influence`` gives them.

    Returns:
        ``[samples]``; zero for those without a gradient.
    """
    return torch.where(influences > 0, influences.rsqrt(), torch.zeros_like(influences))


def residual_weights(errors: Tensor, leverages: Tensor) -> Tensor:
    """``r / (1 − h)``: the residual of a sample, had it been left out (DAS, arXiv 2410.18639).

    Args:
        errors: ``[samples]`` mean squared noise error of each, ``r²``.
        leverages: ``[samples]`` h in [0, 1): self-influences divided by the number of samples.

    Returns:
        ``[samples]``.
    """
    return errors.sqrt() / (1 - leverages)


def squares_pulled_back(mean: Tensor, directions: Tensor, members: Tensor) -> Tensor:
    """Half the gradient by φ of ``Σ_{i in k} (φ · u_i)²``: ``Σ_{i in k} (φ · u_i) u_i``.

    Its inner product with φ is the sum itself; twice that with a draw of φ is what the draw contributes to
    first order (delta method).

    Args:
        mean: ``[queries, dims]`` φ.
        directions: ``[samples, dims]`` u.
        members: ``[samples, groups]`` bool.

    Returns:
        ``[groups, queries, dims]``.
    """
    products = mean @ directions.T
    return torch.stack([products[:, one] @ directions[one] for one in members.T])
