"""Scores by gradients of a full model: what all kernels share."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from guda_lightning.attribution.attributor import (
    AttributionContext,
    refuse_no_queries,
    refuse_unlike,
    sizes_of,
)
from guda_lightning.attribution.gradients.flat import FlatModel
from guda_lightning.attribution.gradients.parts import Parts
from guda_lightning.attribution.gradients.samples import GRADIENT, SampleGradients
from guda_lightning.attribution.pieces import FittedByPieces
from guda_lightning.attribution.samples import training_samples
from guda_lightning.data import GroupDataModule, query_hash
from guda_lightning.data.grouping import Grouping, Indices
from guda_lightning.diffusion import DiffusionModel
from guda_lightning.functional.elbo import standard_error, stderr_kind
from guda_lightning.functional.projection import SparseSigns
from guda_lightning.functional.timesteps import TimestepPlan
from guda_lightning.scores import ScoreRecord, ScoreTable
from guda_lightning.scores.kinds import CONTENT, Influence
from guda_lightning.scores.record import ScoringRecord
from guda_lightning.types import Queries

if TYPE_CHECKING:
    from guda_lightning.attribution.gradients.influence import GradientInfluence


@dataclass(frozen=True, eq=False, kw_only=True)
class FittedGradients(FittedByPieces):
    """Influences by gradients of the full model.

    Attributes:
        options: How they are estimated.
        context: Full model, data and where to compute.
        data: The training data.
        grouping: Which of them belong to which group.
        details: What identifies the scores beside queries and noise.
    """

    at_once: ClassVar[int] = 64  # squared scores pass over all features for every piece
    options: GradientInfluence
    context: AttributionContext
    data: GroupDataModule
    grouping: Grouping
    details: Influence

    @abstractmethod
    def influences(self, queries: Queries) -> tuple[Tensor, Tensor]:
        """Scores of queries, once everything is prepared.

        Returns:
            ``[groups, queries]``, and what each draw contributes to them to first order,
            ``[groups, queries, evaluations]``; both float64.
        """

    def score(self, queries: Queries) -> ScoreTable:
        """Score every query against every group.

        Args:
            queries: ``Q`` queries, the same on all ranks.

        Returns:
            ``Q × groups`` rows, in the one weighting that is named after the output.

        Raises:
            QueryError: No queries, or some that are not like the training images.
        """
        refuse_no_queries(queries)
        refuse_unlike(queries, self.data)
        self.prepare()
        scores, terms = self.measured(self._measure, queries, self.context.execution.ranks)
        errors = standard_error(terms.flatten(0, 1)).view(len(self.groups), len(queries))
        return ScoreTable.from_matrix(
            scores[..., 0, 0].T,
            errors.T,
            query_ids=queries.ids,
            groups=self.groups,
            n_draws=self.query_plan.evaluations,
            method=self.method,
            weighting=self.options.output,
            seed=self.seed,
            record=self.record(queries),
        )

    def record(self, queries: Queries) -> ScoreRecord:
        """What identifies the scores of these queries: full model, data, groups, noise and all options."""
        return ScoreRecord(
            self.details,
            query_hash=query_hash(queries),
            encoders=queries.encoders,
            provenance=self.context.provenance,
            scoring=ScoringRecord(
                self.seed, self.query_plan.record(), stderr_kind(self.query_plan), "fp32", CONTENT
            ),
            group_sizes=sizes_of(self.grouping, self.groups),
        )

    def kept(self) -> tuple[Path, ...]:
        """The folder of what is prepared."""
        return () if self.parts.folder is None else (self.parts.folder,)

    def evaluations(self, queries: Queries) -> int:
        """Network evaluations that scoring these queries needs."""
        return GRADIENT * self.left(queries, self.context.execution.ranks) * self.query_plan.evaluations

    def bytes_per_query(self) -> int:
        """About how much memory ``score`` needs for every query: what each draw contributes to each score."""
        return super().bytes_per_query() + 16 * len(self.groups) * self.query_plan.evaluations

    def members_of(self, group: str) -> Indices:
        """The training samples of a scored group, sorted."""
        return self.grouping.forget(self.grouping.coalition(group))

    def membership(self) -> Tensor:
        """Which training sample is in which scored group, ``[samples, groups]`` bool."""
        table = torch.zeros(len(self.data.ids), len(self.groups), dtype=torch.bool)
        for column, group in enumerate(self.groups):
            table[torch.from_numpy(self.members_of(group)), column] = True
        return table

    @cached_property
    def model(self) -> DiffusionModel:
        """A copy of the full model for gradients, on the device."""
        full = self.context.full.model
        network = copy.deepcopy(full.denoiser).eval().requires_grad_(False)
        return replace(full, denoiser=network.to(self.context.execution.device))

    @cached_property
    def query_plan(self) -> TimestepPlan:
        """Timesteps and draws of each query."""
        schedule = self.context.full.model.schedule
        return TimestepPlan.even(schedule, self.options.strata, self.options.draws)

    @cached_property
    def training_plan(self) -> TimestepPlan:
        """Timesteps and draws of each training sample."""
        schedule = self.context.full.model.schedule
        return TimestepPlan.even(schedule, self.options.training_strata, self.options.training_draws)

    @cached_property
    def parts(self) -> Parts:
        """What is computed of the training samples."""
        return Parts(self.context.features, self.identity())

    def identity(self) -> dict[str, object]:
        """What the parts depend on."""
        return {
            "full": self.context.full.hash,
            "schedule": self.context.full.model.schedule.hash,
            "data": self.data.hash,
            "plan": self.training_plan.record(),
            "seed": self.seed,
            "noise": CONTENT,
            "output": self.options.output,
            "unit": self.options.normalise == "timestep",
        }

    def gradients(self, plan: TimestepPlan) -> SampleGradients:
        """Gradients of the full model under a plan."""
        return SampleGradients(
            flat=self._flat,
            schedule=self.context.full.model.schedule,
            plan=plan,
            output=self.options.output,
            unit=self.options.normalise == "timestep",
            seed=self.seed,
            batch_size=self.options.batch_size,
            execution=self.context.execution,
            projection=self._projection,
        )

    def samples(self, indices: Indices, size: int) -> Iterator[Queries]:
        """Training samples, so many at a time."""
        for start in range(0, len(indices), size):
            chosen = indices[start : start + size]
            yield training_samples(self.data, chosen, self.context.full.model.conditional)

    def _measure(self, queries: Queries) -> tuple[Tensor, Tensor]:
        """Scores ``[groups, Q, 1, 1]``, and terms ``[groups, Q, strata, draws]`` for ``standard_error``."""
        plan = self.query_plan
        scores, terms = self.influences(queries)
        shaped = terms.unflatten(2, (plan.num_strata, plan.draws)) * plan.draws
        return scores[..., None, None].cpu(), shaped.cpu()

    @cached_property
    def _flat(self) -> FlatModel:
        return FlatModel(self.model)

    @cached_property
    def _projection(self) -> SparseSigns | None:
        if self.options.dims is None:
            return None
        drawn = SparseSigns.drawn(self.seed, self._flat.size, self.options.dims)
        return drawn.to(self.context.execution.device)
