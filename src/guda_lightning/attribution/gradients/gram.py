"""The Gram matrix of projected gradients as a kernel."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from guda_lightning.attribution.gradients.kernel import Kernel
from guda_lightning.errors import NumericsError


class Gram(Kernel):
    """``(H + λ)⁻¹`` with ``H = ΦᵀΦ / n`` of the features Φ of n training samples (TRAK, arXiv 2303.14186).

    Built from features that stream by; 2 · 8 · dims² bytes while it is built, half of that afterwards.

    Args:
        features: ``[rows, dims]`` at a time, at least one.
        damping: λ relative to the mean eigenvalue of H; positive.

    Raises:
        NumericsError: A feature is no number.
    """

    def __init__(self, features: Iterable[Tensor], damping: float) -> None:
        total, count = torch.zeros(0), 0
        for rows in features:
            if not count:
                total = rows.new_zeros(rows.shape[1], rows.shape[1], dtype=torch.float64)
            rows = rows.double()
            total.addmm_(rows.T, rows)
            count += len(rows)
        total /= count
        mean = total.diagonal().mean()
        if not mean.isfinite():
            raise NumericsError(
                "the gradients of the training samples hold what is no number",
                found=float(mean),
                expected="finite gradients",
                fix="look for NaN in the model's weights or in the training data",
            )
        # Where all features are zero, so is all that is solved for.
        total.diagonal().add_(damping * mean if mean > 0 else 1)
        self._factor = torch.linalg.cholesky(total, out=total)

    def solve(self, gradients: Tensor) -> Tensor:
        """``(H + λ)⁻¹ φ`` for several features ``[rows, dims]``, in float64 inside."""
        found = torch.cholesky_solve(gradients.double().T, self._factor)
        return found.T.to(gradients)
