r"""Curvature of one layer as a Kronecker product with corrected eigenvalues (EK-FAC).

A layer ``s = W [a, 1]`` that sees tokens (or positions of a convolution) has for one sample the gradient
``G = Σ_tokens (∂f/∂s) [a, 1]ᵀ``, ``[out, in + 1]``. Its curvature ``E[vec(G) vec(G)ᵀ]`` is taken for

| K-FAC  | ``S ⊗ A``, ``S = E[(∂f/∂s)(∂f/∂s)ᵀ]``, ``A = E[[a, 1][a, 1]ᵀ]``                               |
| EK-FAC | ``(Q_S ⊗ Q_A) diag(Λ) (Q_S ⊗ Q_A)ᵀ``, their eigenvectors, and ``Λ = E[(Q_Sᵀ G Q_A)²]`` |

(Martens and Grosse, arXiv 1503.05671; George et al., arXiv 1806.03884, section 3; for convolutions Grosse and
Martens, arXiv 1602.01573). Λ is the diagonal of the curvature in that basis, so of all diagonals it is the
nearest in Frobenius norm, and the scales of S and A do not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class KroneckerBasis(NamedTuple):
    """Orthonormal basis of a layer's weights.

    Attributes:
        outputs: ``[out, out]``, the eigenvectors of S in its columns.
        inputs: ``[in, in]``, those of A; ``in`` counts the bias where there is one.
    """

    outputs: Tensor
    inputs: Tensor

    def rotate(self, blocks: Tensor) -> Tensor:
        """Coordinates in this basis, ``Q_Sᵀ G Q_A``, of ``[..., out, in]``."""
        return self.outputs.T @ blocks @ self.inputs

    def restore(self, coordinates: Tensor) -> Tensor:
        """The blocks ``[..., out, in]`` that have these coordinates, ``Q_S C Q_Aᵀ``."""
        return self.outputs @ coordinates @ self.inputs.T


def with_ones(activations: Tensor) -> Tensor:
    """``[a, 1]``: the coordinate that the bias is a weight of, ``[rows, in + 1]`` of ``[rows, in]``."""
    return torch.nn.functional.pad(activations, (0, 1), value=1.0)


def patch_rows(
    images: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """What a convolution multiplies its weights with at each position, in the order of the weights.

    Args:
        images: ``[batch, channels, height, width]``.
        kernel_size: Rows and columns, as the following ones; those of ``torch.nn.Conv2d``.
        stride: Of the convolution.
        padding: With zeros, on both sides.
        dilation: Of its kernel.

    Returns:
        ``[batch · positions, channels · rows · columns]``.
    """
    unfold = torch.nn.functional.unfold
    patches: Tensor = unfold(images, tuple(kernel_size), tuple(dilation), tuple(padding), tuple(stride))
    return patches.transpose(1, 2).flatten(0, 1)


def outer_sum(rows: Tensor) -> Tensor:
    """``Σ r rᵀ`` over ``[rows, dims]``, ``[dims, dims]``: an uncentred covariance times their number."""
    return rows.T @ rows


def kronecker_basis(outputs: Tensor, inputs: Tensor) -> KroneckerBasis:
    """The eigenvectors of both covariances, found in float64, in their own dtype.

    Args:
        outputs: ``[out, out]``, S at any scale.
        inputs: ``[in, in]``, A at any scale.
    """
    found = (torch.linalg.eigh(covariance.double()).eigenvectors for covariance in (outputs, inputs))
    return KroneckerBasis(*(vectors.to(outputs.dtype).contiguous() for vectors in found))


def squared_coordinates(basis: KroneckerBasis, gradients: Tensor) -> Tensor:
    """``Σ (Q_Sᵀ G Q_A)²`` over samples, ``[out, in]``: corrected eigenvalues times the number of samples.

    Args:
        basis: Of the layer.
        gradients: ``[samples, out, in]``, of each sample by itself, summed over its tokens.
    """
    return basis.rotate(gradients).square().sum(dim=0)


def solve(basis: KroneckerBasis, eigenvalues: Tensor, damping: float, blocks: Tensor) -> Tensor:
    """``((Q_S ⊗ Q_A) diag(Λ) (Q_S ⊗ Q_A)ᵀ + λ)⁻¹ g``, ``[..., out, in]``.

    Args:
        basis: Of the layer.
        eigenvalues: ``[out, in]`` Λ, none negative.
        damping: λ, positive.
        blocks: ``[..., out, in]``, the g.
    """
    return basis.restore(basis.rotate(blocks) / (eigenvalues + damping))
