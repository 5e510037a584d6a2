"""EK-FAC of one layer against dense algebra: curvatures of all its weights, written out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from guda_lightning.functional.kfac import (
    KroneckerBasis,
    kronecker_basis,
    outer_sum,
    patch_rows,
    solve,
    squared_coordinates,
    with_ones,
)


def tokens(seed: int, samples: int, count: int, out: int, inputs: int) -> tuple[Tensor, Tensor]:
    """Output gradients and inputs of a layer, ``[samples, tokens, dims]``, that depend on each other."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(samples, count, inputs, generator=generator, dtype=torch.float64)
    mixed = torch.randn(inputs, out, generator=generator, dtype=torch.float64)
    return (a @ mixed) * torch.randn(samples, count, out, generator=generator, dtype=torch.float64), a


def fisher(gradients: Tensor) -> Tensor:
    """Mean outer product of ``[samples, out, in]`` with itself, over all weights."""
    return outer_sum(gradients.flatten(1)) / len(gradients)


def dense(basis: KroneckerBasis, eigenvalues: Tensor) -> Tensor:
    vectors = torch.kron(basis.outputs, basis.inputs)
    return vectors @ eigenvalues.flatten().diag() @ vectors.T


def fitted(s: Tensor, a: Tensor) -> tuple[KroneckerBasis, Tensor, Tensor]:
    """Basis and corrected eigenvalues of ``[samples, tokens, dims]``, and the gradients."""
    basis = kronecker_basis(outer_sum(s.flatten(0, 1)), outer_sum(a.flatten(0, 1)))
    gradients = s.transpose(1, 2) @ a
    return basis, squared_coordinates(basis, gradients) / len(gradients), gradients


def test_of_independent_inputs_and_gradients_it_is_the_exact_inverse() -> None:
    # All pairs of four gradients and seven inputs: independent, and the curvature is S ⊗ A exactly.
    s, a = (tokens(0, rows, 1, out, inputs)[0] for rows, out, inputs in ((4, 3, 2), (7, 4, 2)))
    a = with_ones(a[:, 0])[:, None]
    s, a = s.repeat_interleave(7, dim=0), a.repeat(4, 1, 1)
    basis, eigenvalues, gradients = fitted(s, a)
    kronecker = torch.kron(outer_sum(s[:, 0]) / 28, outer_sum(a[:, 0]) / 28)
    torch.testing.assert_close(fisher(gradients), kronecker)
    torch.testing.assert_close(dense(basis, eigenvalues), kronecker)
    g = torch.randn(6, 3, 5, dtype=torch.float64)
    inverse = torch.linalg.inv(kronecker + 0.3 * torch.eye(15, dtype=torch.float64))
    torch.testing.assert_close(solve(basis, eigenvalues, 0.3, g).flatten(1), g.flatten(1) @ inverse)


@settings(deadline=None, max_examples=25)
@given(
    st.integers(0, 10**6), st.integers(1, 8), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4),
    st.floats(0.1, 10),
)  # fmt: skip
def test_corrected_eigenvalues_are_the_nearest_diagonal(
    seed: int, samples: int, count: int, out: int, inputs: int, scale: float
) -> None:
    s, a = tokens(seed, samples, count, out, inputs)
    basis, eigenvalues, gradients = fitted(s, a)
    exact, vectors = fisher(gradients), torch.kron(basis.outputs, basis.inputs)
    torch.testing.assert_close(eigenvalues.flatten(), (vectors.T @ exact @ vectors).diagonal())
    # K-FAC at any scale, as conventions for several tokens differ.
    kronecker = scale * torch.kron(outer_sum(s.flatten(0, 1)), outer_sum(a.flatten(0, 1))) / samples
    error, of_kfac = ((found - exact).norm() for found in (dense(basis, eigenvalues), kronecker))
    assert error <= of_kfac + 1e-9 * exact.norm()


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"),
    [((3, 3), 1, 1, 1), ((3, 2), (2, 1), (0, 1), 1), ((2, 2), 2, 1, 2), ((1, 1), 1, 0, 1)],
)
def test_a_convolution_is_a_linear_layer_on_its_patches(
    kernel: tuple[int, int],
    stride: int | tuple[int, int],
    padding: int | tuple[int, int],
    dilation: int,
) -> None:
    layer = nn.Conv2d(2, 3, kernel, stride, padding, dilation)  # type: ignore[arg-type]
    images = torch.randn(4, 2, 6, 5)
    output = layer(images)
    rows = patch_rows(images, layer.kernel_size, layer.stride, layer.padding, layer.dilation)  # type: ignore[arg-type]
    flat = torch.cat([layer.weight.flatten(1), layer.bias[:, None]], dim=1)  # type: ignore[index]
    as_linear = (with_ones(rows) @ flat.T).view(4, *output.shape[2:], 3).movedim(-1, 1)
    torch.testing.assert_close(as_linear, output)


def test_solve_is_linear_symmetric_positive_and_ends_at_the_damping() -> None:
    basis, eigenvalues, _ = fitted(*tokens(3, 5, 2, 3, 4))
    x, y = torch.randn(2, 3, 4, dtype=torch.float64)

    def inverse(block: Tensor, damping: float = 0.1) -> Tensor:
        return solve(basis, eigenvalues, damping, block)

    torch.testing.assert_close(inverse(2 * x - y), 2 * inverse(x) - inverse(y))
    torch.testing.assert_close((x * inverse(y)).sum(), (y * inverse(x)).sum())
    assert (x * inverse(x)).sum() > 0
    torch.testing.assert_close(inverse(x, 1e12) * 1e12, x)
    # The definition: what is solved for comes back.
    back = (dense(basis, eigenvalues) + 0.1 * torch.eye(12, dtype=torch.float64)) @ inverse(x).flatten()
    torch.testing.assert_close(back, x.flatten())
