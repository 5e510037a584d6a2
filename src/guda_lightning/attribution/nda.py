"""Nonparametric data attribution: which training patches a noised query is made of, without any model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, asdict, dataclass

import numpy as np
import torch

from guda_lightning.attribution.attributor import AttributionContext, Attributor, training_data
from guda_lightning.attribution.elbo import scored_groups
from guda_lightning.attribution.fitted_nda import FittedNDA
from guda_lightning.errors import ConfigError, check_range
from guda_lightning.functional.guidance import removed_atoms
from guda_lightning.functional.patches import Window
from guda_lightning.functional.schedule import NoiseSchedule
from guda_lightning.scores.kinds import CONTENT, NonParametric

_PUBLISHED = 1000  # timesteps of the schedule that published timesteps are of
_PUBLISHED_PATCH = 7


@dataclass(frozen=True)
class NDA(Attributor):
    """Shares of each group's images in the patches of noised queries (NDA, arXiv 2510.14269).

    No network is asked: the training set stands for the model, as it does for a convolutional one that sees
    patches. The table has two weightings: ``posterior``, the published share ρ of a group, and ``density``,
    ``−log(1 − ρ)`` in nats, by which a patch gets less likely in a model of patches that never saw the group;
    both are means over positions. Maps of the shares go onto the page.

    Costs ``images · positions² · channels · patch²`` multiplications a query and draw, ``positions`` times
    less without ``anywhere``. Memory: three times 8 MiB, or ``8 · positions²`` bytes (one query, one image)
    where that is more, beside the queries and their maps.

    Args:
        timesteps: Noise levels, out of 1000; scaled to the length of another schedule. Published: 100 to 500.
        patch: Side k of a patch, at most 2 · side − 1 of the picture. None: 7 as published, or that.
        coarse: Side k′ of a second patch that is compared at half its resolution; even. None: one scale.
            Published for 32 x 32: 14 and, coarse, 10.
        alpha: What the first scale counts beside the second one.
        top: Positions of each image that count at each position of the query; None counts all.
        mask_value: What pixels outside of a picture are taken for.
        anywhere: Whether a patch may come from any place of a training image, as published, or from its own.
        draws: Noise draws a timestep, at least two: they give the standard error. Published: one.
        seed: Seed of the noise.
        groups: Groups to score, such as ``3`` or, as one, ``3+7``; None takes all that have samples.
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
            context: The full model's noise schedule, the training data and, if not their own, the groups.

        Raises:
            ConfigError: There are no training data, a patch is too large, or a timestep cannot be scored.
            GroupError: The groups are those of other data, or one does not exist or cannot be removed.
        """
        data, grouping = training_data(context, "nda")
        groups = scored_groups(context, self.groups)
        member = [[name in grouping.coalition(text) for name in grouping.names] for text in groups]
        atoms, atom = grouping.atoms()
        schedule = context.full.model.schedule
        windows, timesteps = self._windows(data.input_shape), self._scaled(schedule)
        options = {**asdict(self), "timesteps": timesteps, "patch": windows[0][1].size, "groups": None}
        return FittedNDA(
            groups=groups,
            method="nda",
            seed=self.seed,
            windows=windows,
            timesteps=timesteps,
            draws=self.draws,
            top=self.top,
            schedule=schedule,
            data=data,
            grouping=grouping,
            members=[np.flatnonzero(atom == number) for number in range(len(atoms))],
            removed=removed_atoms(torch.from_numpy(atoms), torch.tensor(member)),
            details=NonParametric(
                data_hash=data.hash,
                mirrored=data.horizontal_flip,
                schedule=schedule.hash,
                options={name: value for name, value in options.items() if value is not None},
                noise=CONTENT,
            ),
            execution=context.execution,
        )

    def _windows(self, shape: tuple[int, int, int]) -> list[tuple[float, Window]]:
        """What each scale counts, and its window."""
        _, height, width = shape
        widest = 2 * max(height, width) - 1  # shows all of a picture around each of its pixels
        patch = min(_PUBLISHED_PATCH, widest) if self.patch is None else self.patch
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
