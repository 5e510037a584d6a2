"""What the posteriors without training share: the training images, and which window compares them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from guda_lightning.data import GroupDataModule
from guda_lightning.data.grouping import Indices
from guda_lightning.errors import ConfigError, GroupError
from guda_lightning.functional.kernels import (
    Block,
    Moments,
    blocks_of,
    kept_less_all,
    kernel_moments,
    overall_mean,
)
from guda_lightning.functional.schedule import NoiseSchedule
from guda_lightning.posteriors.posterior import Corrections, GroupPosterior

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True, kw_only=True)
class KernelPosterior(GroupPosterior):
    """The training images themselves, from which every counterfactual follows: ``∇ = (γ/σ²)(m_−S − m)``.

    m is the mean of clean images given x_t, m_−S that without the groups S: the counterfactual denoiser
    itself, had the full model's been m. Holds the training images twice, in float32.

    Attributes:
        images: ``[samples, channels, height, width]`` what the full model saw, mirrored copies included.
        atom: ``[samples]`` int64, the atom of each.
        labels: ``[samples]`` int64 classes. With a conditional model, noised samples of a class are compared
            with the images of that class alone. None where labels are prompts, of which hardly two images
            share one: then with all images, as without a condition.
    """

    images: Tensor
    atom: Tensor
    labels: Tensor | None
    _blocks: dict[int | None, list[Block]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def _of(
        cls,
        data: GroupDataModule,
        schedule: NoiseSchedule,
        device: torch.device | str,
        indices: Indices | None = None,
        **fields: Any,
    ) -> Self:
        """The posterior of some training samples, of all of them if left out.

        Raises:
            ConfigError: A timestep without noise, where images have no weights.
        """
        clean = (schedule.sigma == 0).nonzero().flatten().tolist()
        if clean:
            raise ConfigError(
                "posteriors of training images need noise at every timestep",
                found=f"none at timestep {clean[0]} of {len(schedule)}",
                expected="sigma > 0",
                fix="train the full model with a noise schedule whose first step adds noise",
            )
        indices = np.arange(len(data.ids)) if indices is None else indices
        table, atom = data.grouping.atoms()
        images = data.seen_inputs(indices)
        copies = len(images) // len(indices)  # mirrored ones follow the samples themselves
        rows = torch.from_numpy(indices).repeat(copies)
        labels = None if data.labels is None or data.prompts is not None else data.labels[rows].to(device)
        return cls(
            schedule=schedule,
            atoms=torch.from_numpy(table).to(device),
            groups=data.grouping.names,
            images=images.to(device),
            atom=torch.from_numpy(atom)[rows].to(device),
            labels=labels,
            **fields,
        )

    @abstractmethod
    def windows(self, timesteps: Tensor) -> Tensor:
        """The window at each timestep, pixels a side: ``[batch]`` int64 on the CPU.

        Args:
            timesteps: ``[batch]`` int64.
        """

    def corrections(self, x_t: Tensor, timesteps: Tensor, labels: Tensor | None = None) -> Corrections:
        """See ``GroupPosterior.corrections``.

        Samples of one window and class are compared together. What is kept for the function that is
        returned are ``batch × atoms × (channels + 1) × pixels`` float64 numbers.

        Raises:
            GroupError: By that function: a coalition leaves no training image of a sample's class.
        """
        labels = None if self.labels is None else labels
        moments = self._moments(x_t, timesteps, self.windows(timesteps), labels)
        gamma, sigma = self.schedule.at(timesteps, like=moments.mean)
        return partial(self._correct, moments, gamma / sigma.square(), x_t.dtype, labels)

    def denoised(
        self, x_t: Tensor, timesteps: Tensor, windows: Tensor, labels: Tensor | None = None
    ) -> Tensor:
        """``E[x_0 | x_t]`` through given windows: ``[batch, ...]`` float64.

        Args:
            x_t: ``[batch, ...]`` noised samples.
            timesteps: ``[batch]`` int64.
            windows: ``[batch]`` int64 pixels a side, on the CPU.
            labels: ``[batch]`` int64 class labels, for a conditional model.
        """
        return overall_mean(self._moments(x_t, timesteps, windows, None if self.labels is None else labels))

    def _moments(self, x_t: Tensor, timesteps: Tensor, windows: Tensor, labels: Tensor | None) -> Moments:
        atoms, x = len(self.atoms), x_t.detach().double()
        gamma, sigma = (value.flatten() for value in self.schedule.at(timesteps, like=x))
        moments = Moments(x.new_empty(len(x), atoms, *x.shape[2:]), x.new_empty(len(x), atoms, *x.shape[1:]))
        for rows, window, label in _alike(windows, labels):
            found = kernel_moments(x[rows], gamma[rows], sigma[rows], self._images_of(label), atoms, window)
            for whole, part in zip(moments, found, strict=True):
                whole[rows] = part
        return moments

    def _correct(
        self,
        moments: Moments,
        ratio: Tensor,
        dtype: torch.dtype,
        labels: Tensor | None,
        removed: Tensor,
    ) -> Tensor:
        if labels is not None:
            present = moments.log_mass[:, :, 0, 0] > -torch.inf
            empty = (present.double() @ (~removed).double().T == 0).nonzero()
            if len(empty):
                sample, coalition = empty[0].tolist()
                raise self._none_left(int(labels[sample]), removed[coalition])
        return (ratio * kept_less_all(moments, removed)).to(dtype)

    def _none_left(self, label: int, removed: Tensor) -> GroupError:
        covered = [bool(removed[column].all()) and bool(column.any()) for column in self.atoms.T]
        names = [group for group, inside in zip(self.groups, covered, strict=True) if inside]
        return none_left(names, label, 0 if self.labels is None else int((self.labels == label).sum()))

    def _images_of(self, label: int | None) -> list[Block]:
        """The images of a class, or all of them."""
        if label not in self._blocks:
            chosen = slice(None) if label is None or self.labels is None else self.labels == label
            self._blocks[label] = blocks_of(self.images[chosen], self.atom[chosen])
        return self._blocks[label]


def none_left(groups: Sequence[str], label: int, images: int) -> GroupError:
    """What removing groups is refused with if a class would lose all its training images."""
    return GroupError(
        f"without {', '.join(groups) or 'any group'}, no training image of class {label} is left",
        found=f"{images} images of that class",
        expected="some that are in none of these groups",
        fix="remove fewer groups at once, or group the images by something else than their classes",
    )


def _alike(windows: Tensor, labels: Tensor | None) -> list[tuple[Tensor, int, int | None]]:
    """Rows of a batch that are compared through one window, with images of one class."""
    keys = [windows] if labels is None else [windows, labels.cpu()]
    kinds, kind = torch.stack(keys, dim=1).unique(dim=0, return_inverse=True)
    return [
        ((kind == number).nonzero()[:, 0], window, label[0] if label else None)
        for number, (window, *label) in enumerate(kinds.tolist())
    ]
