"""``ImageKernel``: the groups of the whole training images that a noised sample may be from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from guda_lightning.data import GroupDataModule
from guda_lightning.functional.kernels import whole_window
from guda_lightning.functional.schedule import NoiseSchedule
from guda_lightning.posteriors.kernel import KernelPosterior

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True, kw_only=True)
class ImageKernel(KernelPosterior):
    """The softmax over whole training images: what a model that memorises them would predict.

    Its counterfactual denoiser is ReTrack's target, exact for the empirical distribution; next to a network,
    which generalises, its counterfactuals are ten to a hundred times too large (docs/methods.md).
    """

    @classmethod
    def of(cls, data: GroupDataModule, schedule: NoiseSchedule, device: torch.device | str = "cpu") -> Self:
        """The image kernel of all training samples.

        Args:
            data: The training data of the full model.
            schedule: Its noise schedule.
            device: Where the images go.

        Raises:
            ConfigError: A timestep without noise, where images have no weights.
        """
        return cls._of(data, schedule, device)

    def windows(self, timesteps: Tensor) -> Tensor:
        """See ``KernelPosterior.windows``: the whole image."""
        height, width = self.images.shape[2:]
        return torch.full((len(timesteps),), whole_window(height, width))
