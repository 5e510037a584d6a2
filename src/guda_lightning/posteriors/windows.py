"""Stand-in until the branch `kernels` is merged."""

from __future__ import annotations

import torch

from guda_lightning.data import GroupDataModule
from guda_lightning.diffusion import DiffusionModel
from guda_lightning.posteriors.patch_kernel import KernelLevel


def fit_windows(
    data: GroupDataModule, full: DiffusionModel, device: torch.device | str = "cpu", seed: int = 0
) -> tuple[KernelLevel, ...]:
    """Three levels."""
    parts = full.schedule.scored_timesteps.tensor_split(3)
    return tuple(KernelLevel(int(p[0]), int(p[-1]), 8, 0.9, 0.1 / (2 * i + 1)) for i, p in enumerate(parts))
