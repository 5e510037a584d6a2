"""``Unlearner``: makes the full model forget groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable

from guda_lightning import compat
from guda_lightning.attribution import AttributionContext
from guda_lightning.attribution.forget_target import ForgetTarget
from guda_lightning.callbacks import ELBOAttributionCallback
from guda_lightning.counterfactuals import CounterfactualRecord
from guda_lightning.diffusion.adapters import Lora
from guda_lightning.diffusion.labels import num_labels
from guda_lightning.makers.costs import TRAINING_SECONDS, step_seconds
from guda_lightning.makers.maker import Maker, name_of
from guda_lightning.makers.trainers import Training
from guda_lightning.makers.until_predicted import UntilPredicted
from guda_lightning.unlearning import Objective, ObjectiveContext, UnlearnModule

VALIDATIONS = 4  # while unlearning a group: enough to see its influence grow


def saves_memory(model: LightningModule) -> bool:
    """Whether the full model was trained with gradient checkpointing, so that its students need it too."""
    return bool(getattr(model, "gradient_checkpointing", False))


@dataclass(frozen=True, kw_only=True, eq=False)
class Unlearner(Maker):
    """Makes a copy of the full model forget some groups, by minimising an objective.

    Attributes:
        objective: What to minimise.
        optimizer: Builds the optimizer.
        lr_scheduler: Builds the learning-rate schedule.
        steps: Optimizer steps per counterfactual.
        lora: The adapter to unlearn in; None changes all weights.
        checkpointing: Whether to save memory by computing activations twice.
        device: Where steps are timed.
        autocast: The precision of forward passes, for timing them.
        until_predicted: Whether to stop before, where a group is forgotten as far as the posterior predicts.
    """

    objective: Objective
    optimizer: OptimizerCallable
    lr_scheduler: LRSchedulerCallable | None = None
    steps: int
    lora: Lora | None = None
    checkpointing: bool = False
    device: torch.device | str = "cpu"
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
    until_predicted: bool = False

    @property
    def operator(self) -> str:
        """Name of the objective."""
        return self.objective.operator

    def check(self, groups: Sequence[str]) -> None:
        """Refuse groups that the objective cannot forget, before any work; raises as ``Objective.bind``."""
        model = self.full.model
        self.objective.bind(
            ObjectiveContext(
                self.data.unlearning(groups),
                model.schedule,
                self.provenance,
                torch.device("cpu"),
                model.conditional,
                num_labels=num_labels(model.denoiser),
            )
        )
        self.target(groups)

    def target(self, groups: Sequence[str]) -> ForgetTarget | None:
        """How far to forget some groups; None: as far as all steps lead.

        Raises:
            StoreError: There is no posterior to predict it.
            ConfigError: It predicts no loss.
        """
        if not self.until_predicted:
            return None
        context = AttributionContext(self.full, self.data, store=self.store.root)
        return ForgetTarget.of(context, self.data, name_of(groups), self.seed)

    def student(self, groups: Sequence[str]) -> UnlearnModule:
        """A student that has not begun to forget these groups."""
        module = UnlearnModule(
            self.full,
            self.objective,
            groups,
            self.optimizer,
            self.lr_scheduler,
            seed=self.seed,
            lora=self.lora,
        )
        if self.checkpointing:
            network: Any = module.denoiser
            network.enable_gradient_checkpointing()
        return module

    def make(self, groups: Sequence[str]) -> CounterfactualRecord | None:
        """Unlearn some groups together, and store the student."""
        student = self.student(groups)

        def keep(trainer: Trainer) -> CounterfactualRecord:
            curves = [c.history for c in compat.callbacks(trainer) if isinstance(c, ELBOAttributionCallback)]
            return student.save(self.store, curves[0] if curves else (), self.hparams)

        target = self.target(groups)
        training = Training(
            "unlearn",
            name_of(groups),
            self.key(groups).folder_name,
            made_from=self.provenance.of_training(),
            hparams=self._hparams_for_loggers(groups),
            settings={
                "max_steps": self.steps,
                "max_epochs": -1,
                "check_val_every_n_epoch": None,
                "val_check_interval": max(1, self.steps // VALIDATIONS),
                "num_sanity_val_steps": 0,
            },
            callbacks=[] if target is None else [UntilPredicted(target, self.steps)],
        )
        return self.trainers.train(
            training, student, self.data.unlearning(groups), keep, partial(self.has, groups)
        )

    def seconds(self) -> float:
        """Estimated seconds per counterfactual: a step learns from a forget and a retain batch."""
        student = replace(self.full.model, denoiser=self.student(self.data.grouping.names[:1]).denoiser)
        step = step_seconds(
            student,
            self.data,
            self.device,
            self.autocast,
            batches=2,
            other_passes=self.objective.full_passes,
        )
        return self.steps * step + TRAINING_SECONDS
