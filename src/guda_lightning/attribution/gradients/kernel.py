"""What stands between two gradients in an influence: the inverse of a curvature."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor


class Kernel(ABC):
    """An approximate inverse of the curvature of the mean training loss, ``(H + λ)⁻¹``; symmetric."""

    @abstractmethod
    def solve(self, gradients: Tensor) -> Tensor:
        """``(H + λ)⁻¹ g`` for several gradients.

        Args:
            gradients: ``[rows, weights]``.

        Returns:
            ``[rows, weights]``, of the same dtype and on the same device.
        """


class Identity(Kernel):
    """No curvature: plain inner products of gradients (TracIn, arXiv 2002.08484)."""

    def solve(self, gradients: Tensor) -> Tensor:
        """The gradients themselves."""
        return gradients
