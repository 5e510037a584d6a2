"""Scores by unlearning the query: losses of members before and after every query is forgotten."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from guda_lightning.attribution.ascents import Ascent, Preparation, Site
from guda_lightning.attribution.attributor import (
    AttributionContext,
    refuse_no_queries,
    refuse_unlike,
)
from guda_lightning.attribution.gradients.parts import Parts
from guda_lightning.attribution.pieces import FittedByPieces
from guda_lightning.attribution.samples import seen_count, seen_samples
from guda_lightning.attribution.scoring import NoisedQueries
from guda_lightning.data import query_hash
from guda_lightning.data.grouping import Indices
from guda_lightning.functional.elbo import squared_error
from guda_lightning.functional.rises import group_total, rise, skewed_rise
from guda_lightning.functional.timesteps import TimestepPlan
from guda_lightning.scores import ScoreRecord, ScoreTable
from guda_lightning.scores.kinds import CONTENT, Influence
from guda_lightning.scores.record import ScoringRecord
from guda_lightning.types import Queries

LOSS, SKEW = "loss", "skew"  # weightings of the table
_ASCENT, _BEFORE = "ascent", "losses"  # parts that are prepared
_SHARED = "noise of all members"  # in place of their ids
# At a time: of weights that have forgotten a query (256 MiB), and of losses in float64, which stand in memory
# up to four times while they are compared (2 GiB, where there are more losses than weights).
_NUMBERS = 2**26


@dataclass(frozen=True, eq=False, kw_only=True)
class FittedQueryUnlearning(FittedByPieces):
    """Rises of losses of members of each group.

    Attributes:
        context: The full model, the data, the groups and where features are kept.
        site: The full model as a function of its weights.
        ascent: How a query is forgotten.
        plan: Timesteps at which members are compared.
        skewed: Whether by skewed differences.
        shared_noise: Whether all members have the same noise.
        rows: Numbers of the images of all groups that are compared, sorted.
        members: Which of them are in each group, by their place in ``rows``.
        sizes: Number of samples of each group.
        details: What identifies the scores beside queries, groups and noise.
        scoring: The noise.
    """

    context: AttributionContext
    site: Site
    ascent: Ascent
    plan: TimestepPlan
    skewed: bool
    shared_noise: bool
    rows: Indices
    members: Sequence[Indices]
    sizes: Mapping[str, int]
    details: Influence
    scoring: ScoringRecord

    def prepare(self) -> None:
        """Compute what the ascent needs and the members' losses under the full model, unless they are kept.

        Raises:
            StoreError: A file of them is damaged.
        """
        ranks, needed = self.context.execution.ranks, self._preparation
        if needed is not None:
            self._of_ascent.make([_ASCENT], lambda _: needed.make(), ranks)
        self._of_members.make([_BEFORE], lambda _: {_BEFORE: self._before()}, ranks)

    def kept(self) -> tuple[Path, ...]:
        """The folders of what is prepared."""
        parts = (self._of_members,) if self._preparation is None else (self._of_ascent, self._of_members)
        folders = (one.folder for one in parts)
        return tuple(folder for folder in folders if folder is not None)

    def preparation(self) -> int:
        """Network evaluations that ``prepare`` still needs; a backward pass counts as two."""
        left = self._losses * len(self._of_members.missing([_BEFORE]))
        if self._preparation is not None:
            left += self._preparation.evaluations * len(self._of_ascent.missing([_ASCENT]))
        return left

    def score(self, queries: Queries) -> ScoreTable:
        """Forget every query, one after the other, and compare the members' losses.

        Args:
            queries: ``Q`` queries, the same on all ranks.

        Returns:
            ``Q × groups`` rows of one weighting, ``skew`` or ``loss``.

        Raises:
            QueryError: No queries, or some that are not like the training images.
        """
        refuse_no_queries(queries)
        refuse_unlike(queries, self.site.data)
        self.prepare()
        values, complete = self.measured(self._measure, queries, self.context.execution.ranks)
        scores, errors = values[..., 0]
        table = ScoreTable.from_matrix(
            scores,
            errors,
            query_ids=queries.ids,
            groups=self.groups,
            n_draws=self.plan.evaluations,
            method=self.method,
            weighting=SKEW if self.skewed else LOSS,
            seed=self.seed,
            record=self.record(queries),
        )
        left = int((complete == 0).sum())
        if not left:
            return table
        note = f"{left} of {len(queries)} queries were not forgotten as far as configured: take more steps"
        return replace(table, notes=(*table.notes, f"{self.method}: {note}, or a higher rate"))

    def record(self, queries: Queries) -> ScoreRecord:
        """What identifies the scores of these queries: model, data, groups, noise and how they are made."""
        return ScoreRecord(
            self.details,
            query_hash=query_hash(queries),
            encoders=queries.encoders,
            provenance=self.context.provenance,
            scoring=self.scoring,
            group_sizes=self.sizes,
        )

    def evaluations(self, queries: Queries) -> int:
        """Network evaluations that scoring costs; fewer where an ascent ends before its last step."""
        left = self.left(queries, self.context.execution.ranks)
        return left * (self.ascent.evaluations() + self._losses)

    @property
    def _losses(self) -> int:
        return len(self.rows) * self.plan.evaluations

    @cached_property
    def _preparation(self) -> Preparation | None:
        return self.ascent.preparation(self.site)

    @cached_property
    def _of_ascent(self) -> Parts:
        return self._parts({} if self._preparation is None else self._preparation.identity)

    @cached_property
    def _of_members(self) -> Parts:
        noise = {"plan": self.plan.record(), "seed": self.seed, "shared_noise": self.shared_noise}
        return self._parts({**noise, "rows": self.rows.tolist()})

    def _parts(self, identity: Mapping[str, object]) -> Parts:
        full, data = self.context.full, self.site.data
        made_from = {
            "full": full.hash,
            "schedule": full.model.schedule.hash,
            "data": data.hash,
            "noise": CONTENT,
        }
        how = {"weights": list(self.details.options["weights"]), "mirrored": data.horizontal_flip}
        return Parts(self.context.features, {**made_from, **how, **identity})

    def _before(self) -> Tensor:
        return self._member_losses([self.site.flat.vector()])[0]

    def _measure(self, queries: Queries) -> tuple[Tensor, Tensor]:
        """Scores and errors ``[2, Q, groups, 1]``, and ``[Q, 1, 1]`` whether a query is forgotten."""
        before = self._of_members.load(_BEFORE)[_BEFORE]
        known = {} if self._preparation is None else self._of_ascent.load(_ASCENT)
        factors = self.plan.shares[:, None]
        images = seen_count(self.site.data) // len(self.site.data.ids)
        numbers = max(1, _NUMBERS // max(self.site.flat.size, self._losses))
        found, complete = [], []
        for start in range(0, len(queries), numbers):
            rows = range(len(queries))[start : start + numbers]
            forgotten = [self.ascent.forget(self.site, queries.take([row]), known) for row in rows]
            complete += [float(one.complete) for one in forgotten]
            after = torch.stack(self._member_losses([one.vector for one in forgotten]))
            terms = factors * self._compared(before[None], after)
            totals = [
                group_total(terms[:, members], size * images, self.shared_noise)
                for members, size in zip(self.members, self.sizes.values(), strict=True)
            ]
            # A mirrored training sees each sample in two images, which stand for one.
            found.append(torch.stack([torch.stack(one) for one in totals], dim=2) / images)
        return torch.cat(found, dim=1)[..., None], torch.tensor(complete)[:, None, None]

    def _compared(self, before: Tensor, after: Tensor) -> Tensor:
        if not self.skewed:
            return rise(before, after)
        numbers = self.site.data.inputs[0].numel()
        return skewed_rise(before / numbers, after / numbers)

    def _member_losses(self, vectors: Sequence[Tensor]) -> list[Tensor]:
        """Losses ``[members, strata, draws]`` of all members under each of some weights."""
        losses: list[list[Tensor]] = [[] for _ in vectors]
        for batch in self._batches():
            for of_one, vector in zip(losses, vectors, strict=True):
                with torch.no_grad():
                    of_one.append(
                        squared_error(batch.noise, self.site.flat.predicted_noise(vector, batch)).cpu()
                    )
                self.context.execution.on_evaluations(len(batch.timesteps))
        shape = (len(self.rows), self.plan.num_strata, self.plan.draws)
        return [torch.cat(of_one).view(shape) for of_one in losses]

    def _batches(self) -> Iterator[NoisedQueries]:
        """All members, noised, a few images at a time."""
        images = max(1, self.site.batch_size // self.plan.evaluations)
        for rows in np.split(self.rows, range(images, len(self.rows), images)):
            samples = seen_samples(self.site.data, rows, self.site.model.conditional)
            if self.shared_noise:
                samples = replace(samples, keys=(_SHARED,) * len(rows))
            yield from self.site.noised(samples, self.plan, self.seed)
