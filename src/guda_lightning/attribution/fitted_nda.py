"""Scores by training patches: shares of the groups in noised queries, streamed over the training images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from guda_lightning.attribution.attributor import refuse_no_queries, refuse_unlike, sizes_of
from guda_lightning.attribution.pieces import FittedByPieces
from guda_lightning.data import GroupDataModule, query_hash
from guda_lightning.data.grouping import Grouping, Indices
from guda_lightning.distributed.execution import Execution
from guda_lightning.functional.noise import gaussian_noise
from guda_lightning.functional.patches import Window, log_patch_masses, patch_shares
from guda_lightning.functional.prediction import add_noise
from guda_lightning.functional.schedule import NoiseSchedule
from guda_lightning.progress_bar import progress_bar
from guda_lightning.scores import ScoreRecord, ScoreTable
from guda_lightning.scores.kinds import NonParametric
from guda_lightning.scores.maps import GroupMaps
from guda_lightning.types import Queries

SHARE, RATIO = "posterior", "density"  # the weightings of the table
_CELLS = 2**20  # pairs of patches that are compared at a time, 8 MiB: more would not stay in a cache
_ROWS = 2**10  # of these, patches of queries


@dataclass(frozen=True, eq=False, kw_only=True)
class FittedNDA(FittedByPieces):
    """Shares of training patches.

    Attributes:
        windows: What each scale counts, and its window.
        timesteps: Timesteps of the schedule.
        draws: Noise draws a timestep.
        top: Positions of each image that count; None counts all.
        schedule: The noise schedule.
        data: The training data.
        grouping: Which of them belong to which group.
        members: The samples of each atom.
        removed: ``[groups, atoms]`` bool, what each scored group removes.
        details: What identifies the scores beside queries and groups.
        execution: Where to compute.
    """

    windows: Sequence[tuple[float, Window]]
    timesteps: Sequence[int]
    draws: int
    top: int | None
    schedule: NoiseSchedule
    data: GroupDataModule
    grouping: Grouping
    members: Sequence[Indices]
    removed: Tensor
    details: NonParametric
    execution: Execution

    def score(self, queries: Queries) -> ScoreTable:
        """Score every query against every group.

        Args:
            queries: ``Q`` queries, the same on all ranks.

        Returns:
            ``Q × groups`` rows for each of the weightings ``posterior`` and ``density``, and maps of shares.

        Raises:
            QueryError: No queries, or some that are not like the training images.
        """
        refuse_no_queries(queries)
        refuse_unlike(queries, self.data)
        values, maps = self._all_measured(queries)
        record, draws = self.record(queries), self.draws
        tables = [
            ScoreTable.from_matrix(
                of_one.mean(dim=(2, 3)).T,
                # Draws are of the same timesteps: what varies between these is no error.
                of_one.var(dim=3).mean(dim=2).div(draws * len(self.timesteps)).sqrt().T,
                query_ids=queries.ids,
                groups=self.groups,
                n_draws=draws * len(self.timesteps),
                method=self.method,
                weighting=weighting,
                seed=self.seed,
                record=record,
            )
            for weighting, of_one in zip((SHARE, RATIO), values, strict=True)
        ]
        found = GroupMaps(queries.ids, self.groups, maps.transpose(0, 1), record.hash)
        return replace(ScoreTable.concat(tables), maps=found)

    def record(self, queries: Queries) -> ScoreRecord:
        """What identifies the scores of these queries: images, groups, noise and how they are compared."""
        return ScoreRecord(
            self.details,
            query_hash=query_hash(queries),
            encoders=queries.encoders,
            grouping_hash=self.grouping.hash,
            group_sizes=sizes_of(self.grouping, self.groups),
        )

    def bytes_per_query(self) -> int:
        """About how much memory ``score`` needs for every query: its maps, and scores of every draw."""
        numbers = 2 * len(self.timesteps) * self.draws * len(self.groups)
        return super().bytes_per_query() + 4 * len(self.groups) * self._positions + 8 * numbers

    def _all_measured(self, queries: Queries) -> tuple[Tensor, Tensor]:
        ranks = self.execution.ranks
        images = len(self.data.ids) * (1 + self.data.horizontal_flip) * len(self.windows)
        noised = -(-self.left(queries, ranks) // ranks.count) * len(self.timesteps) * self.draws
        total, shown = images * noised, ranks.rank == 0
        with progress_bar("compare patches", "pairs", total, shown=shown, lines=True, delay=2) as bar:
            return self.measured(partial(self._measure, bar.update), queries, ranks)

    def _measure(self, done: Callable[[int], object], queries: Queries) -> tuple[Tensor, Tensor]:
        """Both scores ``[2, groups, Q, timesteps, draws]`` and maps ``[groups, Q, height, width]``."""
        height, width = self.data.input_shape[1:]
        steps, draws = len(self.timesteps), self.draws
        rows = torch.cartesian_prod(*map(torch.arange, (len(queries), steps, draws)))
        values = torch.zeros(2, len(self.groups), len(rows), dtype=torch.float64)
        maps = torch.zeros(len(self.groups), len(queries), height * width)
        for block in self._blocks(rows):
            x_t, t = self._noised(queries, rows[block])
            for share, window in self.windows:
                masses = log_patch_masses(
                    x_t,
                    float(self.schedule.gamma[t]),
                    float(self.schedule.sigma[t]),
                    self._images(len(block), window, done),
                    len(self.members),
                    window,
                    self.top,
                )
                found = patch_shares(*masses, self.removed.to(x_t.device))
                for kind, one in enumerate(found):
                    values[kind][:, block] += share * one.mean(dim=1).T.cpu()
                part = (share / (steps * draws) * found[0]).permute(2, 0, 1).float().cpu()
                maps.index_add_(1, rows[block, 0], part)
        return values.unflatten(2, (len(queries), steps, draws)), maps.unflatten(2, (height, width))

    def _blocks(self, rows: Tensor) -> Iterator[Tensor]:
        """Numbers of rows (query, timestep, draw) that are compared together: of one timestep."""
        for step in range(len(self.timesteps)):
            yield from (rows[:, 1] == step).nonzero()[:, 0].split(max(1, _ROWS // self._positions))

    def _noised(self, queries: Queries, rows: Tensor) -> tuple[Tensor, int]:
        """Queries with noise, ``[rows, ...]``, and their timestep."""
        query, step, draw = rows.unbind(1)
        t = torch.tensor(self.timesteps)[step]
        x0, keys = queries.inputs[query], [queries.noise_keys[i] for i in query.tolist()]
        noise = gaussian_noise(self.seed, keys, t, draw, x0.shape[1:])
        return add_noise(x0, noise, *self.schedule.at(t, like=x0)).to(self.execution.device), int(t[0])

    def _images(
        self, pictures: int, window: Window, done: Callable[[int], object]
    ) -> Iterator[tuple[int, Tensor]]:
        """All training images, atom by atom, as many at a time as fit beside so many noised pictures."""
        cells = pictures * self._positions * window.comparisons(self._positions)
        size = max(1, _CELLS // (cells * (1 + self.data.horizontal_flip)))
        for atom, members in enumerate(self.members):
            for start in range(0, len(members), size):
                images = self.data.seen_inputs(members[start : start + size]).to(self.execution.device)
                yield atom, images
                done(pictures * len(images))

    @property
    def _positions(self) -> int:
        _, height, width = self.data.input_shape
        return height * width
