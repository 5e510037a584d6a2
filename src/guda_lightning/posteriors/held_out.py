"""A classifier's logits of samples that it was not trained on, noised the same way each time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from guda_lightning.data import HeldOutDataModule
from guda_lightning.diffusion import evaluating
from guda_lightning.diffusion.model import Condition
from guda_lightning.functional.prediction import add_noise
from guda_lightning.functional.schedule import NoiseSchedule
from guda_lightning.posteriors.classifier_posterior import classifier_condition, classifier_inputs

_BATCH = 1024  # samples at a time: neither noise nor noised samples are ever held together


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Held-out samples with what a classifier is to say of them.

    Attributes:
        schedule: The noise schedule.
        x0: ``[samples, ...]`` clean samples.
        labels: ``[samples]`` int64 class labels or numbers of prompts; None for an unconditional model.
        atom: ``[samples]`` int64, the atom of each.
        prompts: Embeddings of prompts by number, for a text-to-image model.
    """

    schedule: NoiseSchedule
    x0: Tensor
    labels: Tensor | None
    atom: Tensor
    prompts: Condition | None = None

    @classmethod
    def of(
        cls,
        data: HeldOutDataModule,
        atom: Tensor,
        schedule: NoiseSchedule,
        conditional: bool,
        prompts: Condition | None,
    ) -> HeldOut:
        """The held-out samples of a training.

        Args:
            data: What is trained on and what is not.
            atom: ``[samples]`` int64, the atom of every sample.
            schedule: The noise schedule.
            conditional: Whether the classifier takes labels or prompts.
            prompts: Embeddings of prompts by number.
        """
        rows, labels = torch.from_numpy(data.held_out), data.parent.labels
        return cls(
            schedule=schedule,
            x0=data.parent.seen_inputs(data.held_out)[: len(rows)],  # not the mirrored copies
            labels=labels[rows] if conditional and labels is not None else None,
            atom=atom[rows],
            prompts=prompts,
        )

    def __len__(self) -> int:
        return len(self.x0)

    def spread(self, count: int) -> Tensor:
        """``[count]`` int64 rows that show all samples about equally often."""
        return torch.arange(count) * len(self) // count

    def logits(self, network: nn.Module, rows: Tensor, timesteps: Tensor, seed: int) -> Tensor:
        """Logits of some samples, ``[rows, atoms]`` on the CPU.

        Args:
            network: A ``NoisyClassifier`` on any device.
            rows: ``[rows]`` int64.
            timesteps: ``[rows]`` int64, one of each.
            seed: Seed of the noise: the same seed, rows and timesteps give the same noised samples.
        """
        generator, device = torch.Generator().manual_seed(seed), next(network.parameters()).device
        found = []
        with evaluating(network):
            for part, at in zip(rows.split(_BATCH), timesteps.split(_BATCH), strict=True):
                x0 = self.x0[part]
                noise = torch.randn(x0.shape, generator=generator)
                x_t = add_noise(x0, noise, *self.schedule.at(at, like=x0)).to(device)
                labels = None if self.labels is None else self.labels[part].to(device)
                condition = classifier_condition(self.prompts, labels, x_t)
                inputs = classifier_inputs(self.schedule, x_t, at.to(device))
                found.append(network(*inputs, condition).float().cpu())
        return torch.cat(found)
