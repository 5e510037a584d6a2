"""``UnlearnModule``: a frozen full model, a student, and one objective for one set of groups."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from guda_lightning.diffusion import DiffusionModel, DiffusionModule, FullModel
from guda_lightning.diffusion.module import Batch
from guda_lightning.errors import ConfigError
from guda_lightning.unlearning.objectives import Objective


class CleanData(Protocol):
    """What a datamodule for unlearning offers besides its loaders."""

    def forget_images(self) -> Tensor:
        """``[samples, channels, height, width]`` in [-1, 1], the group."""
        ...

    def retain_images(self) -> Tensor:
        """``[samples, channels, height, width]`` in [-1, 1], the rest."""
        ...


def default_optimizer(parameters: Any) -> torch.optim.Optimizer:
    """AdamW at 3e-4: 60 steps of it unlearn a group of the digits (docs/benchmarks.md)."""
    return torch.optim.AdamW(parameters, lr=3e-4)


class UnlearnModule(DiffusionModule):
    """Turns the full model into the counterfactual that never saw the given groups.

    A training batch is ``{"forget": batch, "retain": batch}``, as ``GroupDataModule.unlearning`` pairs them.
    Logged every step under ``unlearn/``: the forget and preserve losses, the target's root mean square
    per dimension, and the objective's own diagnostics. At validation, on samples of every group:
    ``unlearn/drift`` (mean squared difference from the full model on retain samples) and the denoising
    loss on forget and retain samples.

    Args:
        full: The full model. ``FullModel.of(module, denoiser="unet", scheduler="noise_scheduler")`` takes it
            from a LightningModule that knows nothing of this library.
        objective: What to minimise.
        groups: Names of the groups to forget.
        optimizer: Builds the optimizer from the student's parameters.
        lr_scheduler: Builds a learning-rate schedule that advances every step.
        conditional: Whether the denoiser takes class labels.
        seed: Seed of the noise and the timesteps.
    """

    def __init__(
        self,
        full: FullModel,
        objective: Objective,
        groups: Sequence[str],
        optimizer: OptimizerCallable = default_optimizer,
        lr_scheduler: LRSchedulerCallable | None = None,
        conditional: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(
            denoiser=copy.deepcopy(full.model.denoiser).train().requires_grad_(True),
            scheduler=full.scheduler,
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
            conditional=conditional,
            seed=seed,
        )
        self.full_denoiser = copy.deepcopy(full.model.denoiser).eval().requires_grad_(False)
        self.full_hash = full.hash
        self.objective = objective
        self.groups = tuple(groups)

    @property
    def full(self) -> DiffusionModel:
        """The frozen full model, on this module's device."""
        student = self.student
        return DiffusionModel(self.full_denoiser, student.schedule, student.prediction)

    def train(self, mode: bool = True) -> UnlearnModule:
        """Set the student's mode; the full model stays in evaluation mode, without dropout."""
        super().train(mode)
        self.full_denoiser.eval()
        return self

    def on_fit_start(self) -> None:
        """Hand the clean data to the objective, on the student's device.

        Raises:
            ConfigError: The datamodule does not pair forget and retain samples.
        """
        self._full = self.full
        data: Any = getattr(self.trainer, "datamodule", None)
        if not (hasattr(data, "forget_images") and hasattr(data, "retain_images")):
            raise ConfigError(
                "unlearning needs to know which samples to forget and which to retain",
                found=f"datamodule {type(data).__name__}",
                expected="a datamodule with forget_images() and retain_images()",
                fix="pass datamodule=GroupDataModule(...).unlearning(groups) to trainer.fit",
            )
        clean: CleanData = data
        retain = clean.retain_images().to(self.device)
        self.objective.check(len(retain))
        self.objective.prepare(clean.forget_images().to(self.device), retain)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The objective's loss on one pair of forget and retain batches."""
        forget, retain = self.noised(batch["forget"]), self.noised(batch["retain"])
        loss = self.objective.loss(self._model, self._full, forget, retain)
        self.log("unlearn/loss", loss.total, prog_bar=True, batch_size=len(retain.x0))
        self.log_dict({f"unlearn/{k}": v for k, v in loss.parts.items()}, batch_size=len(retain.x0))
        return self.finite(loss.total)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Denoising losses of the student and its drift from the full model, always with the same noise."""
        generator = torch.Generator(self.device).manual_seed(batch_idx)
        noised = self.noised(batch, generator)
        student, full = self.student, self.full
        kept = full.output(noised.x_t, noised.timesteps, noised.labels)
        output = student.output(noised.x_t, noised.timesteps, noised.labels)
        drift = (output - kept).square().flatten(1).mean(dim=1)
        loss = (student.predicted_noise(noised.x_t, noised.timesteps, noised.labels) - noised.noise).square()
        forget = self.is_forget(batch)
        for name, value, chosen in (
            ("unlearn/drift", drift, ~forget),
            ("unlearn/retain_loss", loss.flatten(1).mean(dim=1), ~forget),
            ("unlearn/forget_loss", loss.flatten(1).mean(dim=1), forget),
        ):
            if bool(chosen.any()):
                self.log(name, value[chosen].mean(), batch_size=int(chosen.sum()), sync_dist=True)

    def is_forget(self, batch: Batch) -> Tensor:
        """``[batch]`` bool, which samples of a validation batch belong to the groups to forget."""
        data: Any = getattr(self.trainer, "datamodule", None)
        names = data.grouping.names
        columns = [names.index(group) for group in self.groups]
        member: Tensor = batch["groups"][:, columns].any(dim=1)
        return member
