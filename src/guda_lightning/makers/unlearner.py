"""How a stage makes the full model forget a group."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable

from guda_lightning.counterfactuals import CounterfactualKey
from guda_lightning.data import GroupDataModule
from guda_lightning.diffusion import FullModel
from guda_lightning.diffusion.adapters import Lora
from guda_lightning.makers.costs import TRAINING_SECONDS, step_seconds
from guda_lightning.storage.files import sha256_json
from guda_lightning.unlearning import Objective, UnlearnModule


def saves_memory(model: LightningModule) -> bool:
    """Whether the full model was trained with gradient checkpointing, so that its students need it too."""
    return bool(getattr(model, "gradient_checkpointing", False))


@dataclass(frozen=True)
class Unlearning:
    """All that is the same for every counterfactual.

    Attributes:
        full: The full model.
        objective: What to minimise.
        optimizer: Builds the optimizer.
        lr_scheduler: Builds the learning-rate schedule.
        conditional: Whether the denoiser takes class labels or prompts.
        seed: Seed of the noise and the timesteps.
        hparams: Every hyper-parameter, as ``unlearning_hparams`` gives them.
        lora: The adapter to unlearn in; None changes all weights.
        checkpointing: Whether to save memory by computing activations twice.
    """

    full: FullModel
    objective: Objective
    optimizer: OptimizerCallable
    lr_scheduler: LRSchedulerCallable | None
    conditional: bool
    seed: int
    hparams: Mapping[str, Any]
    lora: Lora | None = None
    checkpointing: bool = False

    @property
    def steps(self) -> int:
        """Optimizer steps per group."""
        steps: int = self.hparams["steps"]
        return steps

    def key(self, groups: tuple[str, ...]) -> CounterfactualKey:
        """What the counterfactual without these groups is stored under."""
        return CounterfactualKey(self.objective.name, groups, self.seed, sha256_json(self.hparams))

    def module(self, groups: tuple[str, ...]) -> UnlearnModule:
        """A student that has not begun to forget these groups."""
        module = UnlearnModule(
            self.full,
            self.objective,
            groups,
            self.optimizer,
            self.lr_scheduler,
            conditional=self.conditional,
            seed=self.seed,
            lora=self.lora,
        )
        if self.checkpointing:
            network: Any = module.denoiser
            network.enable_gradient_checkpointing()
        return module

    def seconds(
        self,
        datamodule: GroupDataModule,
        device: torch.device | str,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> float:
        """Estimated seconds per group: a step learns from a forget and a retain batch."""
        student = replace(self.full.model, denoiser=self.module(datamodule.grouping.names[:1]).denoiser)
        step = step_seconds(
            student,
            datamodule,
            device,
            self.conditional,
            autocast,
            batches=2,
            other_passes=self.objective.full_passes,
        )
        return self.steps * step + TRAINING_SECONDS
