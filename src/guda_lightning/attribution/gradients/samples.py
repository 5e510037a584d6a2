"""Gradients of noised samples: one by one, their means over noise draws, and their sum."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from guda_lightning.attribution.gradients.flat import FlatModel
from guda_lightning.attribution.scoring import NoisedQueries, noised_by_plan
from guda_lightning.distributed.execution import Execution
from guda_lightning.functional.elbo import squared_error
from guda_lightning.functional.influence import unit_rows
from guda_lightning.functional.outputs import OUTPUTS, OutputName
from guda_lightning.functional.projection import SparseSigns
from guda_lightning.functional.schedule import NoiseSchedule
from guda_lightning.functional.timesteps import TimestepPlan
from guda_lightning.types import Queries

GRADIENT = 3  # network evaluations: the backward pass counts as two
_BYTES = 2**30  # of gradients that are computed at a time, at most


@dataclass(frozen=True, eq=False)
class SampleGradients:
    """Gradients of an output of the full model, on our noise at even strata of timesteps.

    Attributes:
        flat: The full model.
        schedule: Its noise schedule.
        plan: Timesteps and draws of each sample.
        output: Which output.
        unit: Whether the gradient of each evaluation is brought to length one.
        seed: Of the noise.
        batch_size: Evaluations at a time, at most; changes no gradient.
        execution: Where to compute.
        projection: What the gradients are projected by, if they are.
    """

    flat: FlatModel
    schedule: NoiseSchedule
    plan: TimestepPlan
    output: OutputName
    unit: bool
    seed: int
    batch_size: int
    execution: Execution
    projection: SparseSigns | None = None

    @property
    def size(self) -> int:
        """Length of one gradient as it is given."""
        return self.flat.size if self.projection is None else self.projection.dims

    @property
    def shares(self) -> Tensor:
        """``[evaluations]`` float64, what each counts in the mean over timesteps."""
        return self.plan.evaluation_shares

    def noised(self, samples: Queries, one_by_one: bool = True) -> Iterator[NoisedQueries]:
        """All evaluations in order, in batches; each counts as progress.

        Args:
            samples: What to noise.
            one_by_one: Whether gradients of single evaluations have to fit into memory beside each other.
        """
        fitting = max(1, _BYTES // (4 * self.flat.size))
        size = min(self.batch_size, fitting) if one_by_one else self.batch_size
        where = self.execution.device
        for batch in noised_by_plan(samples, self.plan, self.seed, size, self.schedule, where):
            yield batch
            self.execution.on_evaluations(GRADIENT * len(batch.timesteps))

    def each(self, samples: Queries) -> Iterator[Tensor]:
        """The gradient of every evaluation in order, ``[batch, size]`` at a time."""
        for batch in self.noised(samples):
            found = self.flat.gradients(OUTPUTS[self.output], batch)
            found = unit_rows(found) if self.unit else found
            yield found if self.projection is None else self.projection(found)

    def means(self, samples: Queries) -> Tensor:
        """The mean over timesteps of each sample's gradient, ``[samples, size]``."""
        total = torch.zeros(len(samples), self.size, device=self.execution.device)
        shares, done = self.shares.to(total), 0
        for found in self.each(samples):
            rows = torch.arange(done, done + len(found), device=total.device)
            weighted = found * shares[rows % len(shares), None]
            total.index_add_(0, rows // len(shares), weighted)
            done += len(found)
        return total

    def total(self, samples: Queries) -> Tensor:
        """The sum over samples of these means, ``[size]`` float64; by plain backward passes where it can be.

        A sum of gradients is the gradient of a sum, which costs half as much and no memory for each sample;
        gradients of length one have to be known one by one.
        """
        total = torch.zeros(self.size, device=self.execution.device, dtype=torch.float64)
        shares, done = self.shares.to(total), 0
        if self.unit or self.projection is not None:
            for found in self.each(samples):
                rows = torch.arange(done, done + len(found), device=total.device)
                total += shares[rows % len(shares)].float() @ found
                done += len(found)
            return total
        for batch in self.noised(samples, one_by_one=False):
            rows = torch.arange(done, done + len(batch.timesteps), device=total.device)
            total += self.flat.summed(OUTPUTS[self.output], batch, shares[rows % len(shares)].float())
            done += len(rows)
        return total

    def errors(self, samples: Queries) -> Tensor:
        """The mean over timesteps of each sample's ``‖ε − ε̂‖²``, ``[samples]`` float64."""
        weights, found = self.flat.vector(), []
        where = self.execution.device
        for batch in noised_by_plan(samples, self.plan, self.seed, self.batch_size, self.schedule, where):
            with torch.no_grad():
                found.append(squared_error(batch.noise, self.flat.predicted_noise(weights, batch)))
            self.execution.on_evaluations(len(batch.timesteps))
        errors = torch.cat(found).view(len(samples), -1)
        return errors @ self.shares.to(errors)
