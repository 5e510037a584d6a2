"""Moments of the features of classes, and features drawn from them in place of the samples.

Calibration with virtual representations (Luo et al., NeurIPS 2021, arXiv 2106.05001, section 3.2): of every
class the count, the mean and the scatter of its features are kept, and a linear head is fitted anew on draws
from ``N(mean, covariance)``. With one covariance for all classes that is linear discriminant analysis.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor

_MOST = 4 * 2**20  # numbers in the scatter of all classes and levels: 16 MiB; beyond, classes share one
_FLOOR = 1e-4  # of the mean variance, added to every variance: features that never fire have none
_TINY = 1e-12  # and this, where no feature varies


@dataclass(frozen=True)
class ClassMoments:
    """Count, mean and scatter of the features of every class at every level, in float64.

    Attributes:
        count: ``[classes]`` number of features at each level.
        mean: ``[levels, classes, features]``, 0 where there are none.
        scatter: ``[levels, classes, features, features]``, ``Σ (f − mean)(f − mean)ᵀ``; of one class, the
            sum of all, where the classes share it.
    """

    count: Tensor
    mean: Tensor
    scatter: Tensor

    @classmethod
    def of(cls, features: Tensor, classes: Tensor, number: int) -> ClassMoments:
        """Of features whose classes are known.

        Args:
            features: ``[levels, samples, features]``.
            classes: ``[samples]`` int64.
            number: Of classes.
        """
        values = features.double()
        levels, _, size = values.shape
        shared = levels * number * size**2 > _MOST
        count = torch.bincount(classes, minlength=number).double()
        mean = values.new_zeros(levels, number, size).index_add_(1, classes, values)
        mean /= count.clamp_min(1)[:, None]
        centred = values - mean[:, classes]
        scatter = values.new_zeros(levels, 1 if shared else number, size, size)
        for one in range(scatter.shape[1]):
            chosen = centred if shared else centred[:, classes == one]
            scatter[:, one] = chosen.mT @ chosen
        return cls(count, mean, scatter)

    @property
    def shared(self) -> bool:
        """Whether all classes share one scatter."""
        return self.scatter.shape[1] < len(self.count)

    def take(self, classes: Tensor) -> ClassMoments:
        """Of some classes, ``[classes]`` int64; what they share stays that of all, at their share of it."""
        count, mean = self.count[classes], self.mean[:, classes]
        share = count.sum() / self.count.sum()
        return ClassMoments(count, mean, self.scatter * share if self.shared else self.scatter[:, classes])

    def together(self, other: ClassMoments) -> ClassMoments:
        """These classes, then those of another one of the same levels and features."""
        count = torch.cat([self.count, other.count])
        mean = torch.cat([self.mean, other.mean], dim=1)
        if not len(self.count) or not len(other.count):
            return self if len(self.count) else other
        many = self.shared or other.shared or mean.numel() * mean.shape[2] > _MOST
        parts = [one.scatter.sum(dim=1, keepdim=True) if many else one.scatter for one in (self, other)]
        scatter = parts[0] + parts[1] if many else torch.cat(parts, dim=1)
        return ClassMoments(count, mean, scatter)

    def covariance(self) -> Tensor:
        """``[levels, classes or 1, features, features]``, of full rank.

        That of a class is shrunk to that of all classes as if it had as many more features of theirs as there
        are dimensions: a class of few samples has theirs, one of many its own.
        """
        size = self.mean.shape[2]
        within = self.scatter.sum(dim=1, keepdim=True) / self.count.sum()
        found = within
        if not self.shared:
            found = (self.scatter + size * within) / (self.count + size)[:, None, None]
        variance = within.diagonal(dim1=2, dim2=3).mean(dim=2)[..., None, None]
        return found + (_FLOOR * variance + _TINY) * torch.eye(size, dtype=found.dtype)

    def virtual(self, counts: Tensor, seed: int) -> Tensor:
        """Features drawn from the Gaussians of the classes, ``[levels, Σ counts, features]``, in their order.

        Args:
            counts: ``[classes]`` int64, how many of each class at each level.
            seed: Of the draws.
        """
        generator = torch.Generator().manual_seed(seed)
        levels, classes, size = self.mean.shape
        if not classes:
            return self.mean.new_zeros(levels, 0, size)
        roots = torch.linalg.cholesky(self.covariance()).expand(levels, classes, size, size)
        found = []
        for one, count in enumerate(counts.tolist()):
            drawn = torch.randn(levels, count, size, generator=generator, dtype=torch.float64)
            found.append(self.mean[:, one, None] + drawn @ roots[:, one].mT)
        return torch.cat(found, dim=1)

    def to_tensors(self) -> dict[str, Tensor]:
        """As float32, by name."""
        return {each.name: getattr(self, each.name).float() for each in fields(self)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> ClassMoments:
        """What ``to_tensors`` gave."""
        return cls(**{each.name: tensors[each.name].double() for each in fields(cls)})
