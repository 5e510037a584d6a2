"""Sparse random signs: linear, the same everywhere, and true to inner products."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from guda_lightning.functional.projection import SparseSigns


@given(seed=st.integers(0, 2**31), size=st.integers(1, 60), dims=st.integers(1, 80))
def test_it_is_a_matrix_with_one_sign_in_each_column(seed: int, size: int, dims: int) -> None:
    projection = SparseSigns.drawn(seed, size, dims)
    assert projection.dims == min(dims, size)
    matrix = projection(torch.eye(size))
    assert matrix.shape == (size, projection.dims)
    assert torch.equal(matrix.abs().sum(dim=1), torch.ones(size)) and set(matrix.unique().tolist()) <= {
        -1,
        0,
        1,
    }
    rows = torch.randn(3, size, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(projection(rows), rows @ matrix, rtol=1e-5, atol=1e-5)
    assert torch.equal(SparseSigns.drawn(seed, size, dims)(rows), projection(rows))
    if dims >= size:  # nothing collides: a signed permutation
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(size), rtol=0, atol=0)


def test_inner_products_are_kept_in_expectation() -> None:
    generator, seeds, dims = torch.Generator().manual_seed(0), 2000, 8
    a, b = torch.randn(2, 50, generator=generator, dtype=torch.float64)
    pairs = [SparseSigns.drawn(seed, 50, dims)(torch.stack([a, b])) for seed in range(seeds)]
    products = torch.stack([one @ other for one, other in pairs])
    spread = (a.square().sum() * b.square().sum() + (a @ b).square() - 2 * (a * b).square().sum()) / dims
    torch.testing.assert_close(products.var(), spread, rtol=0.15, atol=0)  # about 4 of its standard errors
    assert abs(products.mean() - a @ b) < 4 * (spread / seeds).sqrt()
