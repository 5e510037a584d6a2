"""At which noise levels scores come about, from the squared errors that ``guda attribute`` kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from guda_lightning.diffusion import open_schedule
from guda_lightning.functional.elbo import timestep_terms
from guda_lightning.scores import ScoreTable
from guda_lightning.scores.kinds import Ensemble, Likelihood
from guda_lightning.scores.squared_errors import SquaredErrors
from guda_lightning.scores.stored import error_files, error_identity, scoring_of
from guda_lightning.scores.views import View
from guda_lightning.storage.runs import RunFolder
from guda_lightning.types import Weighting

MAX_LEVEL_QUERIES = 250  # that have them: the first ones, as of maps
BANDS = 8  # of noise levels, of as many strata each as far as their number divides
GROUPS = 3  # leading groups of a query that are shown


@dataclass(frozen=True, eq=False)
class NoiseLevels:
    """What each band of timesteps adds to scores, by weighting, in the unit that the scores were measured in.

    Attributes:
        queries: Names of the rows.
        groups: Names of the columns.
        bands: First and last timestep of each band, from little noise to much.
        last: Last timestep of the noise schedule.
        added: By weighting ``[queries, groups, bands]`` float64: sums over bands are scores.
    """

    queries: tuple[str, ...]
    groups: tuple[str, ...]
    bands: tuple[tuple[int, int], ...]
    last: int
    added: dict[str, Tensor]

    @classmethod
    def of(cls, run: RunFolder, tables: Sequence[ScoreTable]) -> NoiseLevels | None:
        """Those of a table, or the mean over tables that differ in nothing but a seed.

        Args:
            run: The run folder, which may lack what they follow from.
            tables: Stored tables, or the first parts of such.

        Returns:
            None where scores are no differences of squared errors, or these or the noise schedule are gone.
        """
        found = [_levels(run, table) for table in tables]
        known = [one for one in found if one is not None]
        if len(known) < len(found):
            return None
        first = known[0]
        mean = {name: torch.stack([one.added[name] for one in known]).mean(0) for name in first.added}
        return replace(first, added=mean)

    def to_page(self, view: View) -> dict[str, Any] | None:
        """What the page draws: for each query its leading groups, with what each band adds to their scores.

        Args:
            view: The scores, whose unit the numbers get.

        Returns:
            None where the scores are not sums of these, such as calibrated ones.
        """
        if view.weighting not in self.added:
            return None
        rows = [view.queries.index(query) for query in self.queries]
        columns = [view.groups.index(group) for group in self.groups]
        scores, added = view.scores[rows][:, columns], self.added[view.weighting]
        if view.unit.share:
            total = added.sum(dim=2).abs().sum(dim=1)[:, None, None]
            added = torch.where(total > 0, 100 * added / total, torch.zeros_like(added))
        if not torch.allclose(added.sum(dim=2), scores, rtol=1e-3, atol=1e-3 * float(scores.abs().max())):
            return None
        queries: list[list[list[Any]] | None] = [None] * len(view.queries)
        for row, of_query, of_bands in zip(rows, scores, added, strict=True):
            leading = of_query.topk(min(GROUPS, len(columns))).indices.tolist()
            queries[row] = [
                [columns[place], [float(f"{value:.3g}") for value in of_bands[place].tolist()]]
                for place in leading
            ]
        return {"bands": [list(band) for band in self.bands], "last": self.last, "queries": queries}


def _levels(run: RunFolder, table: ScoreTable) -> NoiseLevels | None:
    record = table.record
    if not isinstance(record.details, Likelihood) or isinstance(record.details, Ensemble):
        return None
    known = set(table.groups) <= set(record.details.counterfactuals) and (run.full / "scheduler").is_dir()
    if record.scoring is None or record.provenance is None or not known:
        return None
    schedule = open_schedule(run.full)
    files = {name: paths[0] for name, paths in error_files(table, run.errors).items()}  # of the first chunk
    if schedule.hash != record.provenance.schedule_hash or not all(map(Path.is_file, files.values())):
        return None
    plan = scoring_of(record.scoring).plan(schedule)
    hashes: dict[str | None, str] = {None: str(record.full_hash), **record.details.counterfactuals}
    chunk = record if not record.chunks else replace(record, query_hash=record.chunks[0].query_hash)

    def errors(group: str | None) -> SquaredErrors:
        return SquaredErrors.load(files[group], expect=error_identity(chunk, hashes[group]))

    full = errors(None)
    count = min(len(full.query_ids), MAX_LEVEL_QUERIES)
    edges = [len(plan.starts) * band // BANDS for band in range(BANDS + 1)]
    spans = [(low, high) for low, high in pairwise(edges) if low < high]
    ends = [*plan.starts[1:], len(plan.timesteps)]
    added: dict[str, list[Tensor]] = {weighting: [] for weighting in table.weightings}
    for group in table.groups:
        more = errors(group).errors[:count] - full.errors[:count]  # positive: the group contributed
        for weighting, of_groups in added.items():
            terms = timestep_terms(
                more, full.timesteps[:count], plan, schedule, cast(Weighting, weighting)
            ).mean(dim=2)
            of_groups.append(torch.stack([terms[:, low:high].sum(dim=1) for low, high in spans], dim=1))
    return NoiseLevels(
        full.query_ids[:count],
        table.groups,
        tuple((plan.timesteps[plan.starts[low]], plan.timesteps[ends[high - 1] - 1]) for low, high in spans),
        len(schedule) - 1,
        {weighting: torch.stack(of_groups, dim=1) for weighting, of_groups in added.items()},
    )
