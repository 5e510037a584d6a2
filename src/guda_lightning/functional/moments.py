"""Running moments: count, mean and scatter of numbers that come in parts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Running count, mean and scatter of every entry, NaN left out.

    Two samples are put together without the difference of large numbers (Chan, Golub & LeVeque 1979; for one
    number at a time Welford 1962).

    Attributes:
        count: ``[...]`` int64, how many numbers each entry got.
        mean: ``[...]`` float64, 0 where there are none.
        scatter: ``[...]`` float64, ``Σ (x − mean)²``.
    """

    count: Tensor
    mean: Tensor
    scatter: Tensor

    @classmethod
    def zeros(cls, *shape: int) -> Moments:
        """Of no numbers yet."""
        empty = torch.zeros(shape, dtype=torch.float64)
        return cls(torch.zeros(shape, dtype=torch.int64), empty, empty)

    @classmethod
    def of(cls, values: Tensor) -> Moments:
        """Of the rows of ``[numbers, ...]``."""
        there, values = ~values.isnan(), values.to(torch.float64)
        count = there.sum(dim=0)
        mean = torch.where(there, values, 0).sum(dim=0) / count.clamp_min(1)
        return cls(count, mean, torch.where(there, values - mean, 0).square().sum(dim=0))

    def merge(self, other: Moments) -> Moments:
        """With the numbers of another sample of the same shape."""
        count, step = self.count + other.count, other.mean - self.mean
        share = other.count.double().div_(count.clamp_min(1))
        mean = torch.addcmul(self.mean, step, share)
        scatter = torch.addcmul(self.scatter + other.scatter, step.square_(), share.mul_(self.count))
        return Moments(count, mean, scatter)

    def add(self, values: Tensor) -> Moments:
        """With one more number ``[...]`` for each entry; NaN leaves an entry as it is."""
        there = ~values.isnan()
        numbers = torch.where(there, values.to(torch.float64), 0)
        return self.merge(Moments(there, numbers, numbers.new_zeros(())))

    @property
    def stderr(self) -> Tensor:
        """``[...]`` float64 standard error of ``mean``; NaN for fewer than two numbers."""
        variance = self.scatter / (self.count - 1) / self.count
        return torch.where(self.count > 1, variance.sqrt(), torch.nan)
