"""How a stage makes the full model forget a group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable

from guda_lightning.counterfactuals import CounterfactualKey
from guda_lightning.data import GroupDataModule
from guda_lightning.diffusion import FullModel
from guda_lightning.diffusion.adapters import Lora
from guda_lightning.diffusion.cost import BACKWARD_FACTOR
from guda_lightning.makers.costs import step_seconds
from guda_lightning.storage.files import sha256_json
from guda_lightning.unlearning import Objective, ObjectiveContext, UnlearnModule


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
        return CounterfactualKey(self.objective.operator, groups, self.seed, sha256_json(self.hparams))

    def check(self, groups: tuple[str, ...], datamodule: GroupDataModule) -> None:
        """Refuse groups that the objective cannot forget, before any work.

        Raises:
            GudaError: As ``Objective.bind``.
        """
        provenance = self.full.provenance(datamodule.grouping.hash)
        data, schedule = datamodule.unlearning(groups), self.full.model.schedule
        self.objective.bind(ObjectiveContext(data, schedule, provenance, torch.device("cpu")))

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

    def seconds(self, datamodule: GroupDataModule, device: torch.device | str) -> float:
        """Estimated seconds per group: a step learns from a forget and a retain batch."""
        passes = 2 * BACKWARD_FACTOR + self.objective.full_passes
        return self.steps * step_seconds(self.full.model, datamodule, passes, device, self.conditional)
