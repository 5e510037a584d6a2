"""Callbacks as users write them."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, Trainer


class Impatient(Callback):
    """Stops a training, by no rule that its configuration knows."""

    def __init__(self, steps: int = 6) -> None:
        self.steps = steps

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        trainer.should_stop = trainer.should_stop or trainer.global_step >= self.steps


class Broken(Callback):
    """Cannot be made."""

    def __init__(self) -> None:
        raise KeyError("mine")


class Failing(Callback):
    """Has a bug."""

    def on_train_start(self, *_: Any) -> None:
        raise RuntimeError("mine")


class Misusing(Callback):
    """Has a bug that another library complains about."""

    def on_train_start(self, *_: Any) -> None:
        torch.nn.GroupNorm(3, 4)
