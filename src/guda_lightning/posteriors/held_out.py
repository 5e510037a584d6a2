"""A classifier's logits of samples that it was not trained on, noised the same way each time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from guda_lightning.data import GroupDataModule, HeldOutDataModule
from guda_lightning.data.grouping import Indices
from guda_lightning.diffusion import evaluating
from guda_lightning.diffusion.model import Condition
from guda_lightning.functional.prediction import add_noise
from guda_lightning.functional.schedule import NoiseSchedule
from guda_lightning.posteriors.classifier_posterior import classifier_condition, classifier_inputs
from guda_lightning.posteriors.network import NoisyClassifier

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
        return cls.of_samples(data.parent, data.held_out, atom[data.held_out], schedule, conditional, prompts)

    @classmethod
    def of_samples(
        cls,
        data: GroupDataModule,
        rows: Indices,
        atom: Tensor,
        schedule: NoiseSchedule,
        conditional: bool,
        prompts: Condition | None,
    ) -> HeldOut:
        """Some samples of the training data, which need not be held out of it.

        Args:
            data: The training data.
            rows: Which of them.
            atom: ``[rows]`` int64, the atom of each.
            schedule: The noise schedule.
            conditional: Whether the classifier takes labels or prompts.
            prompts: Embeddings of prompts by number.
        """
        labels = data.labels if conditional else None
        return cls(
            schedule=schedule,
            x0=data.seen_inputs(rows)[: len(rows)],  # not the mirrored copies
            labels=None if labels is None else labels[torch.from_numpy(rows)],
            atom=atom,
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
        return self._passed(network, network, rows, timesteps, seed)

    def features(self, network: NoisyClassifier, rows: Tensor, timesteps: Tensor, seed: int) -> Tensor:
        """What their logits are linear in, ``[rows, features]`` on the CPU; see ``logits``."""
        return self._passed(network, network.features, rows, timesteps, seed)

    def _passed(
        self,
        network: nn.Module,
        function: Callable[..., Tensor],
        rows: Tensor,
        timesteps: Tensor,
        seed: int,
    ) -> Tensor:
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
                found.append(function(*inputs, condition).float().cpu())
        return torch.cat(found)
