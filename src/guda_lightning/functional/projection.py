"""Projections of long vectors by sparse random signs, a pure function of a seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from guda_lightning.functional.noise import query_key


@dataclass(frozen=True, eq=False)
class SparseSigns:
    """Each coordinate goes, with a random sign, into one random bucket (CountSketch, Charikar et al. 2002).

    That is the sparse Johnson-Lindenstrauss transform with one entry a column: inner products are kept in
    expectation, with a standard deviation of at most ``sqrt(2 / dims)`` times the product of the norms. It
    costs one addition a coordinate, where a dense one would cost more than a gradient.

    Attributes:
        buckets: ``[size]`` int64 in ``0..dims-1``.
        signs: ``[size]`` float32, 1 or −1.
        dims: Number of buckets.
    """

    buckets: Tensor
    signs: Tensor
    dims: int

    @classmethod
    def drawn(cls, seed: int, size: int, dims: int) -> SparseSigns:
        """Draw a projection from the raw words of a Philox generator.

        Args:
            seed: The same one gives the same projection on every machine.
            size: Number of coordinates.
            dims: Number of buckets; where there are as many as coordinates, each coordinate keeps its own
                bucket and all inner products are exact.
        """
        words = np.random.Philox(key=query_key(seed, "projection")).random_raw(size)
        signs = torch.from_numpy((words & np.uint64(1)).astype(np.float32)).mul_(2).sub_(1)
        if dims >= size:
            return cls(torch.arange(size), signs, size)
        buckets = ((words >> np.uint64(1)) % np.uint64(dims)).astype(np.int64)
        return cls(torch.from_numpy(buckets), signs, dims)

    def to(self, device: torch.device | str) -> SparseSigns:
        """The same projection on a device."""
        return SparseSigns(self.buckets.to(device), self.signs.to(device), self.dims)

    def __call__(self, rows: Tensor) -> Tensor:
        """Project vectors.

        Args:
            rows: ``[rows, size]``.

        Returns:
            ``[rows, dims]``.
        """
        return rows.new_zeros(len(rows), self.dims).index_add_(1, self.buckets, rows * self.signs)
