"""Scores by unlearning the query: losses of members before and after every query is forgotten."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from guda_lightning.attribution.ascents import Ascent, Forgotten, Site
from guda_lightning.attribution.attributor import (
    AttributionContext,
    FittedAttributor,
    refuse_no_queries,
    refuse_unlike,
)
from guda_lightning.attribution.kept import Part, Tensors
from guda_lightning.attribution.samples import seen_count, seen_samples
from guda_lightning.attribution.scoring import NoisedQueries, shared_errors
from guda_lightning.data import query_hash
from guda_lightning.data.grouping import Indices
from guda_lightning.functional.elbo import squared_error
from guda_lightning.functional.rises import group_total, rise, skewed_rise
from guda_lightning.functional.timesteps import TimestepPlan
from guda_lightning.scores import ScoreRecord, ScoreTable
from guda_lightning.scores.kinds import Influence
from guda_lightning.scores.record import ScoringRecord
from guda_lightning.types import Queries

LOSS, SKEW = "loss", "skew"  # weightings of the table
_BEFORE = "member-losses"
_SHARED = "noise of all members"  # in place of their ids
_NUMBERS = 2**26  # of weights that have forgotten a query, and of losses, at a time: 256 MiB and 512 MiB


@dataclass(frozen=True, eq=False, kw_only=True)
class FittedQueryUnlearning(FittedAttributor):
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
    _kept: dict[str, Tensors] = field(default_factory=dict)

    def prepare(self) -> None:
        """Compute what the ascent needs and the members' losses under the full model, unless they are kept.

        Raises:
            StoreError: A file of them is damaged.
        """
        for part in self._parts():
            if part.name not in self._kept:
                self._kept[part.name] = part.obtain(self.context.features, self.context.execution.ranks)

    def kept(self) -> tuple[Path, ...]:
        """The files of what is prepared."""
        folder = self.context.features
        return () if folder is None else tuple(part.path(folder) for part in self._parts())

    def preparation(self) -> int:
        """Network evaluations that ``prepare`` still needs; a backward pass counts as two."""
        missing = [part for part in self._parts() if part.name not in self._kept]
        return sum(part.evaluations for part in missing if not part.is_kept(self.context.features))

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
        values, complete = shared_errors(self._measure, queries, self.context.execution.ranks)
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
        return len(queries) * (self.ascent.evaluations() + self._losses)

    @property
    def _losses(self) -> int:
        return len(self.rows) * self.plan.evaluations

    def _parts(self) -> list[Part]:
        full, data = self.context.full, self.site.data
        identity = {"full": full.hash, "schedule": full.model.schedule.hash, "data": data.hash}
        identity |= {"weights": self.details.options["weights"], "mirrored": data.horizontal_flip}
        of_losses = {"plan": self.plan.record(), "seed": self.seed, "shared_noise": self.shared_noise}
        losses = Part(_BEFORE, {**of_losses, "rows": self.rows.tolist()}, self._losses, self._before)
        parts = [*self.ascent.parts(self.site), losses]
        return [replace(part, identity={**identity, **part.identity}) for part in parts]

    def _before(self) -> Tensors:
        return {"losses": self._member_losses([self.site.flat.vector()])[0]}

    def _measure(self, queries: Queries) -> tuple[Tensor, Tensor]:
        """Scores and errors ``[2, Q, groups, 1]``, and ``[Q, 1, 1]`` whether a query is forgotten."""
        before = self._kept[_BEFORE]["losses"]
        factors = self.plan.shares[:, None]
        images = seen_count(self.site.data) // len(self.site.data.ids)
        numbers = max(1, _NUMBERS // max(self.site.flat.size, self._losses))
        found, complete = [], []
        for start in range(0, len(queries), numbers):
            forgotten = [
                self._forget(queries.take([row])) for row in range(len(queries))[start : start + numbers]
            ]
            complete += [float(one.complete) for one in forgotten]
            after = torch.stack(self._member_losses([one.vector for one in forgotten]))
            terms = factors * self._compared(before[None], after)
            totals = [
                group_total(terms[:, rows], size * images, self.shared_noise)
                for rows, size in zip(self.members, self.sizes.values(), strict=True)
            ]
            # A mirrored training sees each sample in two images, which stand for one.
            found.append(torch.stack([torch.stack(one) for one in totals], dim=2) / images)
        return torch.cat(found, dim=1)[..., None], torch.tensor(complete)[:, None, None]

    def _forget(self, query: Queries) -> Forgotten:
        return self.ascent.forget(self.site, query, self._kept)

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
            samples = seen_samples(self.site.data, rows, self.site.conditional)
            if self.shared_noise:
                samples = replace(samples, ids=(_SHARED,) * len(rows))
            yield from self.site.noised(samples, self.plan, self.seed)
