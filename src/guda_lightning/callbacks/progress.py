"""How far a training is: for who watches it, and for the driver that spread it."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar

from guda_lightning.progress_bar import Bar, progress_bar
from guda_lightning.spread.progress import PROGRESS, Progress, write_progress

_SECONDS = 1.0  # between two writes: a network disk should not notice


class StepProgress(ProgressBar):
    """One line for a training: steps of all steps, what the module logs for progress bars, and time left.

    Validation in between has no line of its own; a validation alone shows its batches.

    Args:
        title: What is trained.
    """

    def __init__(self, title: str) -> None:
        super().__init__()
        self._title, self._shown = title, True
        self._bar: Bar | None = None

    def enable(self) -> None:
        """Show the line."""
        self._shown = True

    def disable(self) -> None:
        """Show nothing."""
        self._shown = False

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print above the line."""
        if self._shown:
            Bar.write(kwargs.get("sep", " ").join(map(str, args)))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin where an interrupted training goes on."""
        done, total = _progress(trainer)
        self._open("steps", total, done)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the optimizer's steps."""
        if self._bar is not None:
            self._bar.update(trainer.global_step - self._bar.n)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin, unless this interrupts a training."""
        if self._bar is None and not trainer.sanity_checking:
            batches = sum(trainer.num_val_batches)
            self._open("batches", int(batches) if math.isfinite(batches) else None)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Count batches, unless this interrupts a training."""
        if self._bar is not None and self._bar.unit == "batches":
            self._bar.update()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the line, unless this interrupts a training."""
        if self._bar is not None and self._bar.unit == "batches":
            self._close()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the line."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remove the line."""
        self._close()

    def _open(self, unit: str, total: int | None, done: int = 0) -> None:
        self._bar = progress_bar(self._title, unit, total, initial=done, shown=self._shown, lines=True)
        self._bar.metrics = self._metrics

    def _metrics(self) -> Mapping[str, float]:
        """Without the folders of their names: ``loss`` of ``unlearn/loss``."""
        shown = self.trainer.progress_bar_metrics.items()
        return {name.split("/")[-1]: value for name, value in shown if isinstance(value, int | float)}

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class TaskProgress(Callback):
    """Writes steps done and in all to a small file, about once a second.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._written = path, -math.inf

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
            write_progress(self._path, _progress(trainer))


def quiet(recipe: Mapping[str, Any], title: str) -> dict[str, Any]:
    """The arguments of a trainer that shows one line of progress, and no summary of the model.

    What the user configured stays: a progress bar, none, or a summary.

    Args:
        recipe: Arguments of ``lightning.Trainer``.
        title: What is trained.
    """
    given = recipe.get("callbacks") or []
    callbacks: list[Callback] = [*given] if isinstance(given, list) else [given]
    own = any(isinstance(callback, ProgressBar) for callback in callbacks)
    if not own and recipe.get("enable_progress_bar") is not False:
        callbacks.append(StepProgress(title))
    if PROGRESS in os.environ:
        callbacks.append(TaskProgress(Path(os.environ[PROGRESS])))
    return {
        **recipe,
        "callbacks": callbacks,
        "enable_model_summary": bool(recipe.get("enable_model_summary")),
    }


def _progress(trainer: Trainer) -> Progress:
    """Optimizer steps done, and in all."""
    total = trainer.estimated_stepping_batches
    # Lightning says -1 where loaders have no length and only epochs are limited.
    return Progress(trainer.global_step, int(total) if 0 <= total < math.inf else None)
