"""``PatchKernel``: stand-in until the branch `kernels` is merged."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from guda_lightning.data import GroupDataModule
from guda_lightning.functional.schedule import NoiseSchedule
from guda_lightning.posteriors.image_kernel import ImageKernel
from guda_lightning.posteriors.posterior import Corrections, GroupPosterior


@dataclass(frozen=True)
class KernelLevel:
    """A noise level."""

    first: int
    last: int
    window: int
    r2: float
    mse: float

    def to_row(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class PatchKernel(GroupPosterior):
    """Of whole images."""

    inner: ImageKernel

    @classmethod
    def of(
        cls,
        data: GroupDataModule,
        schedule: NoiseSchedule,
        levels: tuple[KernelLevel, ...],
        device: torch.device | str,
    ) -> PatchKernel:
        """Of training data."""
        inner = ImageKernel.of(data, schedule, device)
        return cls(schedule=schedule, atoms=inner.atoms, groups=inner.groups, inner=inner)

    def corrections(self, x_t: Tensor, timesteps: Tensor, labels: Tensor | None = None) -> Corrections:
        """See ``GroupPosterior.corrections``."""
        return self.inner.corrections(x_t, timesteps, labels)


def refuse_costly(images: int, shape: tuple[int, int, int], window: int) -> None:
    """Never."""
