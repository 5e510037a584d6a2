"""When a classifier has learnt what it can: its loss on held-out samples no longer falls."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping

HELD_OUT_LOSS = "guide/held_out_loss"


class HeldOutStopping(EarlyStopping):
    """Ends a training by the losses that it is told, and remembers the step of the least.

    An ``EarlyStopping``, so that what it ends counts as complete and its state lies in every checkpoint.
    Lightning's own looks at validations, which come at the ends of epochs; the steps between two tests must
    not depend on how many samples there are.

    Args:
        patience: Tests without a lower loss after which training ends.

    Attributes:
        step: Optimizer steps before the least loss; 0 before the first test.
        tests: Optimizer steps and loss of each test.
    """

    def __init__(self, patience: int) -> None:
        super().__init__(HELD_OUT_LOSS, patience=patience)
        self.step = 0
        self.tests: list[tuple[int, float]] = []

    def tested(self, trainer: Trainer, loss: float) -> bool:
        """Note the loss at the present step, and end the training after ``patience`` that were not the least.

        Args:
            trainer: The trainer.
            loss: The same on all processes.

        Returns:
            Whether it is the least so far.
        """
        self.tests.append((trainer.global_step, loss))
        if loss < float(self.best_score):
            self.best_score, self.step, self.wait_count = torch.tensor(loss), trainer.global_step, 0
            return True
        self.wait_count += 1
        if self.wait_count >= self.patience:
            self.stopped_epoch, trainer.should_stop = trainer.current_epoch, True
            self.stopping_reason_message = f"no lower held-out loss by step {trainer.global_step}"
        return False

    def last_quarter(self, start: float) -> float | None:
        """Which share of what was learnt, of the fall of the loss, came in the last quarter of the steps.

        Near 0 where training ended because nothing was left to learn; 1 where nothing was learnt at all.

        Args:
            start: The loss of what has learnt nothing.

        Returns:
            The share; None where there was no test.
        """
        if not self.tests:
            return None
        before = [loss for step, loss in self.tests if step <= 0.75 * self.tests[-1][0]]
        least, fallen = float(self.best_score), start - float(self.best_score)
        return min(1.0, (min([start, *before]) - least) / fallen) if fallen > 0 else 1.0

    @property
    def outcome(self) -> str | None:
        """Which step was kept, in words; None before the first test."""
        if not self.step:
            return None
        kept = f"step {self.step} is kept, with a held-out loss of {float(self.best_score):.4f}"
        return f"{kept}; {self.stopping_reason_message}" if self.stopping_reason_message else kept

    def state_dict(self) -> dict[str, Any]:
        """Of a checkpoint."""
        return {**super().state_dict(), "step": self.step, "tests": self.tests}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on as if there had been no interruption."""
        super().load_state_dict(state_dict)
        self.step = state_dict["step"]
        self.tests = [(step, loss) for step, loss in state_dict.get("tests", ())]  # not of earlier versions

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing: it is told."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing: it is told."""
