"""Nonparametric data attribution: which training patches a noised query is made of, without any model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, replace

import numpy as np
import torch
from torch import Tensor

from guda_lightning.attribution.attributor import (
    AttributionContext,
    Attributor,
    FittedAttributor,
    refuse_no_queries,
    refuse_unlike,
    training_data,
)
from guda_lightning.attribution.elbo import scored_groups
from guda_lightning.attribution.scoring import shared_errors
from guda_lightning.data import GroupDataModule, query_hash
from guda_lightning.data.grouping import Grouping, Indices
from guda_lightning.distributed.execution import Execution
from guda_lightning.errors import ConfigError, check_range
from guda_lightning.functional.guidance import removed_atoms
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
_CELLS = 2**20  # pairs of patches that are compared at a time, 8 MiB: more would not stay in a processor's cache
_ROWS = 2**10  # of these, patches of queries
_PUBLISHED = 1000  # timesteps of the schedule that published timesteps are of


@dataclass(frozen=True)
class NDA(Attributor):
    """Shares of each group's images in the patches of noised queries (NDA, arXiv 2510.14269).

    No network is asked: the whole training set stands for the model, as it does for a convolutional one whose
    receptive field is a patch. The table has two weightings: ``posterior``, the published share ρ of a group, a
    mean over positions, and ``density``, ``−log(1 − ρ)`` in nats, by how much the patch gets less likely in such a
    local model without the group. Maps of the shares go onto the page.

    Costs ``images · positions² · channels · patch²`` multiplications a query and draw: digits of 8 x 8 take
    seconds, 50 000 images of 32 x 32 take minutes a query on a few cores. At a time, 8 MiB of comparisons are in
    memory, or those of one query with one image, ``8 · positions²`` bytes, and three times that.

    Args:
        timesteps: Noise levels, out of 1000; scaled to the length of another schedule. Published: 100 to 500.
        patch: Side k of a patch. None: 7 as published, or the largest odd number up to half of a smaller picture.
        coarse: Side k′ of a second, larger patch that is compared at half its resolution; even. None: one scale.
            Published for 32 x 32: 14 and, coarse, 10.
        alpha: What the first scale counts beside the second one.
        top: Positions of each image that count at each position of the query; None counts all.
        mask_value: What pixels outside of a picture are taken for.
        anywhere: Whether a patch may come from any position of a training image, as published, or from its own.
        draws: Noise draws a timestep, at least two: they give the standard error. Published: one.
        seed: Seed of the noise.
        groups: Groups to score, such as ``3`` or, removed together, ``3+7``; None takes all that have samples.
    """

    timesteps: Sequence[int] = (100,)
    patch: int | None = None
    coarse: int | None = None
    alpha: float = 0.5
    top: int | None = 100
    mask_value: float = 10.0
    anywhere: bool = True
    draws: int = 2
    _: KW_ONLY
    seed: int = 0
    groups: Sequence[str] | None = None

    def __post_init__(self) -> None:
        last = _PUBLISHED - 1
        for t in self.timesteps:
            check_range("a timestep of nda", t, ge=0, le=last, symbol="t", fix="take 100 to 500, of 1000")
        check_range("alpha", self.alpha, gt=0, lt=1, fix="take 0.5, or leave coarse out for one scale")
        check_range("top", self.top, ge=1, fix="take the usual 100, or null for all positions")
        check_range("draws", self.draws, ge=2, fix="take 2: one draw has no standard error")
        if not self.timesteps or not math.isfinite(self.mask_value):
            raise ConfigError(
                "nda needs a timestep and a finite mask_value",
                found=f"timesteps {list(self.timesteps)}, mask_value {self.mask_value}",
                expected="at least one timestep, and a number",
                fix="take timesteps: [100] and mask_value: 10",
            )

    def fit(self, context: AttributionContext) -> FittedNDA:
        """Take the training images, and refuse patches and timesteps that they or the schedule do not have.

        Args:
            context: The full model's noise schedule, the training data and, if they are not its own, their groups.

        Raises:
            ConfigError: There are no training data, a patch is too large, or a timestep cannot be scored.
            GroupError: The groups are those of other data, or one does not exist or cannot be removed.
        """
        data, grouping = training_data(context, "nda")
        groups = scored_groups(context, self.groups)
        member = [[name in grouping.coalition(text) for name in grouping.names] for text in groups]
        atoms, atom = grouping.atoms()
        return FittedNDA(
            groups=groups,
            method="nda",
            seed=self.seed,
            config=self,
            windows=self._windows(data.input_shape),
            timesteps=self._scaled(context.full.model.schedule),
            schedule=context.full.model.schedule,
            data=data,
            data_hash=data.hash,
            grouping=grouping,
            members=[np.flatnonzero(atom == number) for number in range(len(atoms))],
            removed=removed_atoms(torch.from_numpy(atoms), torch.tensor(member)),
            execution=context.execution,
        )

    def _windows(self, shape: tuple[int, int, int]) -> list[tuple[float, Window]]:
        """What each scale counts, and its window."""
        _, height, width = shape
        half = min(height, width) // 2
        patch = self.patch or max(1, min(7, half - 1 + half % 2))
        widest = 2 * max(height, width) - 1  # shows all of a picture around each of its pixels
        for name, size in (("patch", patch), ("coarse", self.coarse)):
            check_range(name, size, ge=1, le=widest, fix=f"pictures have {height} x {width} pixels")
        if self.coarse is None:
            return [(1.0, Window(patch, self.mask_value, anywhere=self.anywhere))]
        if self.coarse % 2:
            raise ConfigError(
                "coarse is odd",
                found=self.coarse,
                expected="an even side: blocks of 2 x 2 pixels make one",
                fix=f"take {self.coarse + 1}",
            )
        return [
            (self.alpha, Window(patch, self.mask_value, anywhere=self.anywhere)),
            (1 - self.alpha, Window(self.coarse, self.mask_value, halved=True, anywhere=self.anywhere)),
        ]

    def _scaled(self, schedule: NoiseSchedule) -> list[int]:
        found = [min(len(schedule) - 1, round(t * len(schedule) / _PUBLISHED)) for t in self.timesteps]
        noise = [schedule.gamma[t] > 0 and schedule.sigma[t] > 0 for t in found]
        if not all(noise) or len(set(found)) < len(found):
            raise ConfigError(
                "the timesteps of nda do not fit the noise schedule",
                found=f"{list(self.timesteps)} of 1000, which are {found} of {len(schedule)}",
                expected="different timesteps that hold signal and noise",
                fix="take timesteps: [100]",
            )
        return found


@dataclass(frozen=True, eq=False, kw_only=True)
class FittedNDA(FittedAttributor):
    """Shares of training patches.

    Attributes:
        config: How to compare.
        windows: What each scale counts, and its window.
        timesteps: Timesteps of the schedule.
        schedule: The noise schedule.
        data: The training data.
        data_hash: Identity of the training data.
        grouping: Which of them belong to which group.
        members: The samples of each atom.
        removed: ``[groups, atoms]`` bool, what each scored group removes.
        execution: Where to compute.
    """

    config: NDA
    windows: Sequence[tuple[float, Window]]
    timesteps: Sequence[int]
    schedule: NoiseSchedule
    data: GroupDataModule
    data_hash: str
    grouping: Grouping
    members: Sequence[Indices]
    removed: Tensor
    execution: Execution

    def score(self, queries: Queries) -> ScoreTable:
        """Score every query against every group.

        Args:
            queries: ``Q`` queries, the same on all ranks.

        Returns:
            ``Q × groups`` rows for each of the weightings ``posterior`` and ``density``, and maps of the shares.

        Raises:
            QueryError: No queries, or some that are not like the training images.
        """
        refuse_no_queries(queries)
        refuse_unlike(queries, self.data)
        values, maps = shared_errors(self._measure, queries, self.execution.ranks)
        record, draws = self.record(queries), self.config.draws
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
        options = {
            **asdict(self.config),
            "timesteps": list(self.timesteps),
            "patch": self.windows[0][1].size,
            "groups": None,
        }
        return ScoreRecord(
            NonParametric(
                data_hash=self.data_hash,
                mirrored=self.data.horizontal_flip,
                schedule=self.schedule.hash,
                options={name: value for name, value in options.items() if value is not None},
            ),
            query_hash=query_hash(queries),
            encoders=queries.encoders,
            grouping_hash=self.grouping.hash,
            group_sizes={
                name: len(self.grouping.forget(self.grouping.coalition(name))) for name in self.groups
            },
        )

    def bytes_per_query(self) -> int:
        """About how much memory ``score`` needs for every query: its maps, and scores of every draw."""
        numbers = 2 * len(self.timesteps) * self.config.draws * len(self.groups)
        return super().bytes_per_query() + 4 * len(self.groups) * self._positions + 8 * numbers

    def _measure(self, queries: Queries) -> tuple[Tensor, Tensor]:
        """Both scores ``[2, groups, Q, timesteps, draws]``, and shares ``[groups, Q, height, width]`` float32."""
        height, width = self.data.input_shape[1:]
        steps, draws = len(self.timesteps), self.config.draws
        rows = torch.cartesian_prod(*map(torch.arange, (len(queries), steps, draws)))
        values = torch.zeros(2, len(self.groups), len(rows), dtype=torch.float64)
        maps = torch.zeros(len(self.groups), len(queries), height * width)
        blocks = list(self._blocks(rows))
        images = len(self.data.ids) * (1 + self.data.horizontal_flip)
        total = images * len(self.windows) * len(blocks)
        shown = self.execution.ranks.rank == 0
        with progress_bar("compare patches", "images", total, shown=shown, lines=True, delay=2) as bar:
            for block in blocks:
                x_t, t = self._noised(queries, rows[block])
                for share, window in self.windows:
                    masses = log_patch_masses(
                        x_t,
                        float(self.schedule.gamma[t]),
                        float(self.schedule.sigma[t]),
                        self._images(len(block), window, bar.update),
                        len(self.members),
                        window,
                        self.config.top,
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
        x0, ids = queries.inputs[query], [queries.ids[i] for i in query.tolist()]
        noise = gaussian_noise(self.seed, ids, t, draw, x0.shape[1:])
        return add_noise(x0, noise, *self.schedule.at(t, like=x0)).to(self.execution.device), int(t[0])

    def _images(self, pictures: int, window: Window, done: Callable[[int], object]) -> Iterator[tuple[int, Tensor]]:
        """All training images, those of an atom together, as many at a time as fit beside some noised queries."""
        cells = pictures * self._positions * window.comparisons(self._positions)
        size = max(1, _CELLS // (cells * (1 + self.data.horizontal_flip)))
        for atom, members in enumerate(self.members):
            for start in range(0, len(members), size):
                images = self.data.seen_inputs(members[start : start + size]).to(self.execution.device)
                yield atom, images
                done(len(images))

    @property
    def _positions(self) -> int:
        _, height, width = self.data.input_shape
        return height * width
