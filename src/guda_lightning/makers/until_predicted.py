"""An end of unlearning: when the student has forgotten as far as the posterior predicts."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping

from guda_lightning.attribution.forget_target import ForgetTarget
from guda_lightning.unlearning import UnlearnModule

CHECKS = 30  # at most, while unlearning a group


class UntilPredicted(EarlyStopping):
    """Stops at the first check at which the loss on samples of the group has risen as far as predicted.

    The checks come at steps that are a multiple of a number, on samples and noise that are always the same:
    a run that goes on stops where one that was never interrupted does.

    Args:
        target: Samples, their losses under the full model, and what the posterior predicts.
        steps: Steps at most.
    """

    def __init__(self, target: ForgetTarget, steps: int) -> None:
        super().__init__(monitor="forgotten", mode="max")
        self.target, self.every = target, max(1, steps // CHECKS)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Check, at some steps."""
        if trainer.global_step % self.every or not isinstance(pl_module, UnlearnModule):
            return
        times = self.target.reached(pl_module.student, pl_module.device)
        if times >= 1:
            trainer.should_stop = True
            self.stopping_reason_message = f"forgot {times:.2g} times as far as predicted"

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing: there is no metric to look at."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing: there is no metric to look at."""
