"""How far a training is, for the driver that spread it."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from guda_lightning.spread.progress import PROGRESS, Progress, write_progress

_SECONDS = 1.0  # between two writes: a network disk should not notice


class TaskProgress(Callback):
    """Writes steps done and in all to a small file, about once a second.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._written = path, -math.inf

    @classmethod
    def of_task(cls) -> list[TaskProgress]:
        """The one that this process needs, where it is a task of a spread."""
        return [cls(Path(os.environ[PROGRESS]))] if PROGRESS in os.environ else []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say where training begins."""
        self._write(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Say how far it is."""
        if time.monotonic() - self._written >= _SECONDS:
            self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        if trainer.is_global_zero:
            self._written = time.monotonic()
            total = trainer.estimated_stepping_batches
            write_progress(
                self._path, Progress(trainer.global_step, int(total) if math.isfinite(total) else None)
            )
