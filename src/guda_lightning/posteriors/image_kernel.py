"""``ImageKernel``: stand-in until the branch `kernels` is merged."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from guda_lightning.data import GroupDataModule
from guda_lightning.functional.guidance import log_kept
from guda_lightning.functional.schedule import NoiseSchedule
from guda_lightning.posteriors.posterior import Corrections, GroupPosterior


@dataclass(frozen=True, kw_only=True)
class ImageKernel(GroupPosterior):
    """Softmax over training images."""

    images: Tensor
    atom: Tensor

    @classmethod
    def of(cls, data: GroupDataModule, schedule: NoiseSchedule, device: torch.device | str) -> ImageKernel:
        """Of training data."""
        table, atom = data.grouping.atoms()
        images = data.seen_inputs(data.kept)
        numbers = torch.from_numpy(atom).repeat(len(images) // len(atom))
        return cls(
            schedule=schedule,
            atoms=torch.from_numpy(table).to(device),
            groups=data.grouping.names,
            images=images.to(device).flatten(1),
            atom=numbers.to(device),
        )

    def corrections(self, x_t: Tensor, timesteps: Tensor, labels: Tensor | None = None) -> Corrections:
        """See ``GroupPosterior.corrections``."""

        def correct(removed: Tensor) -> Tensor:
            with torch.enable_grad():
                x = x_t.detach().requires_grad_()
                gamma, sigma = self.schedule.at(timesteps, like=x_t)
                gamma, sigma = gamma.view(-1, 1), sigma.view(-1, 1)
                distance = torch.cdist(x.flatten(1), torch.zeros_like(x.flatten(1)[:1]))  # noqa: F841
                square = (x.flatten(1)[:, None] - gamma[..., None] * self.images[None]).square().sum(2)
                kept = log_kept(-square / (2 * sigma**2), removed[:, self.atom])
                gradients = [torch.autograd.grad(k.sum(), x, retain_graph=True)[0] for k in kept.unbind(1)]
            return torch.stack(gradients, 1)

        return correct
