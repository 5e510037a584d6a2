"""Influences by projected gradients of single samples, which are stored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from guda_lightning.attribution.gradients.fitted import FittedGradients
from guda_lightning.attribution.gradients.projected import ProjectedInfluence, Shard
from guda_lightning.attribution.gradients.samples import GRADIENT
from guda_lightning.progress_bar import progress_bar
from guda_lightning.types import Queries

SHARD = 512  # samples: some ten seconds of a small network on a CPU, and 8 MiB at 4096 dimensions


@dataclass(frozen=True, eq=False, kw_only=True)
class FittedStored(FittedGradients):
    """Influences with the Gram matrix of the samples' projected gradients as curvature.

    The features of a sample, ``4 · dims`` bytes, depend on neither damping nor weights of samples.
    """

    dims: int

    def prepare(self) -> None:
        """Compute the features of every training sample, shard by shard, and what follows from all."""
        if "_projected" not in vars(self):
            self.parts.make(list(self._shards), self._features, self.context.execution.ranks)
        self._projected.prepare()

    def preparation(self) -> int:
        """Network evaluations that ``prepare`` still needs; a backward pass counts as two."""
        left = sum(len(self._shards[name]) for name in self.parts.missing(list(self._shards)))
        each = GRADIENT + self.options.residual_weight  # a forward pass more for the residuals
        return each * self.training_plan.evaluations * left

    def influences(self, queries: Queries) -> tuple[Tensor, Tensor]:
        """Scores of queries, and what each draw contributes to them."""
        gradients = self.gradients(self.query_plan)
        found = torch.cat(list(gradients.each(queries))).view(len(queries), -1, gradients.size)
        return self._projected(found.mul_(gradients.shares.to(found)[:, None]))

    def bytes_per_query(self) -> int:
        """About how much memory ``score`` needs for every query: features of each draw, and of each group."""
        per_group = 24 * len(self.groups) if self.options.squared else 0
        return super().bytes_per_query() + (per_group + 8 * self.query_plan.evaluations) * self.dims

    def identity(self) -> dict[str, object]:
        """What the features depend on."""
        return {**super().identity(), "dims": self.dims, "errors": self.options.residual_weight}

    @cached_property
    def _projected(self) -> ProjectedInfluence:
        return ProjectedInfluence(
            self._stream,
            self.membership(),
            self.options.damped_by,
            relative=self.options.normalise == "sample",
            residual=self.options.residual_weight,
            squared=self.options.squared,
        )

    @cached_property
    def _shards(self) -> dict[str, range]:
        count = len(self.data.ids)
        starts = range(0, count, SHARD)
        return {f"samples-{start:09d}": range(start, min(start + SHARD, count)) for start in starts}

    def _features(self, shard: str) -> dict[str, Tensor]:
        gradients = self.gradients(self.training_plan)
        (samples,) = self.samples(np.array(self._shards[shard]), SHARD)
        errors = {"errors": gradients.errors(samples)} if self.options.residual_weight else {}
        return {"features": gradients.means(samples), **errors}

    def _stream(self) -> Iterator[Shard]:
        device, shown = self.context.execution.device, self.context.execution.ranks.rank == 0
        count = len(self.data.ids)
        with progress_bar("compare gradients", "samples", count, shown=shown, lines=True, delay=2) as bar:
            for name in self._shards:
                part = self.parts.load(name)
                features = part["features"].to(device)
                yield features, part.get("errors", features.new_ones(len(features))).to(device)
                bar.update(len(features))
