"""``PatchKernel``: the groups of the training patches that each pixel of a noised sample may be from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from guda_lightning.data import GroupDataModule
from guda_lightning.data.grouping import Indices
from guda_lightning.errors import ConfigError
from guda_lightning.functional.kernels import multiplications, whole_window
from guda_lightning.functional.schedule import NoiseSchedule
from guda_lightning.posteriors.kernel import KernelPosterior
from guda_lightning.posteriors.posterior import Regions

if TYPE_CHECKING:
    from typing_extensions import Self

MAX_MULTIPLICATIONS = 10**10  # per noised sample: about 0.7 s of a core
_PER_SECOND = 1.4e10  # multiplications of one core of an AMD EPYC, measured on CIFAR-10 at 8 x 8
_SCORED = 160 * 50  # queries × timesteps that the refusal speaks of


@dataclass(frozen=True)
class KernelLevel:
    """The window of one noise level, and how close the kernel through it comes to the full model.

    Attributes:
        first: First timestep.
        last: Last timestep.
        window: Pixels along each side of the window, odd.
        r2: Share of the variance of the full model's ε̂, on noised samples that the kernel does not hold,
            that the kernel's ε̂ explains; at most 1.
        mse: Mean squared distance of the two per dimension, >= 0; noise has 1.
    """

    first: int
    last: int
    window: int
    r2: float
    mse: float

    def to_row(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class PatchKernel(KernelPosterior):
    """At every pixel, the softmax over training images seen through a window around it.

    What convolutional networks do, nearly: it generalises as they do, so its counterfactuals have about the
    size of theirs.

    Attributes:
        levels: The window of each noise level, as ``fit_windows`` finds them, from least noise to most.
    """

    levels: tuple[KernelLevel, ...]

    @classmethod
    def of(
        cls,
        data: GroupDataModule,
        schedule: NoiseSchedule,
        levels: Sequence[KernelLevel],
        device: torch.device | str = "cpu",
        indices: Indices | None = None,
    ) -> Self:
        """The patch kernel of training samples.

        Args:
            data: The training data of the full model.
            schedule: Its noise schedule.
            levels: The window of each noise level, from least noise to most.
            device: Where the images go.
            indices: Which samples; all of them if left out.

        Raises:
            ConfigError: A timestep without noise, or a comparison that would take hours.
        """
        images = len(data.ids if indices is None else indices) * (1 + data.horizontal_flip)
        for window in sorted({level.window for level in levels}):
            refuse_costly(images, data.input_shape, window)  # before the images are copied
        return cls._of(data, schedule, device, indices, levels=tuple(levels))

    def windows(self, timesteps: Tensor) -> Tensor:
        """See ``KernelPosterior.windows``: that of the nearest noise level."""
        first = torch.tensor([level.first for level in self.levels[1:]], dtype=torch.int64)
        level = torch.searchsorted(first, timesteps.cpu().contiguous(), right=True)
        return torch.tensor([level.window for level in self.levels])[level]

    def regions(
        self, x_t: Tensor, timesteps: Tensor, removed: Tensor, labels: Tensor | None = None
    ) -> Regions:
        """See ``GroupPosterior.regions``: whose training patches each pixel's window may show.

        A window that sees the whole picture from every pixel tells no parts of it apart, and does not count.
        """
        windows = self.windows(timesteps)
        moments = self._moments(x_t, timesteps, windows, None if self.labels is None else labels)
        shares = torch.einsum("bahw,ca->bchw", moments.log_mass.softmax(dim=1), removed.to(moments.log_mass))
        local = windows < whole_window(x_t.shape[-2], x_t.shape[-1])
        return Regions(shares, local.to(shares))


def refuse_costly(images: int, shape: tuple[int, int, int], window: int) -> None:
    """Refuse windows that would take more than ``MAX_MULTIPLICATIONS`` per noised sample.

    Args:
        images: Training images, mirrored copies included.
        shape: Channels, height and width.
        window: Pixels along each side of the window.

    Raises:
        ConfigError: It would.
    """
    each = multiplications(shape, window)
    if images * each <= MAX_MULTIPLICATIONS:
        return
    channels, height, width = shape
    hours = images * each * _SCORED / _PER_SECOND / 3600
    raise ConfigError(
        f"the patch kernel would take too long on images of {width} x {height}",
        found=f"{images} images × {height * width} pixels × windows of {window} x {window} x {channels}: "
        f"{images * each / 1e9:.0f}e9 multiplications per noised sample, about {hours:.0f} core hours for "
        "160 queries at 50 timesteps",
        expected=f"at most {MAX_MULTIPLICATIONS / 1e9:.0f}e9",
        fix="take another posterior, such as the classifier, fewer samples with data.limit, or a smaller "
        "data.image_size",
    )
