"""One ``trainer.fit``: where it continues, and when it has not come to its end."""

from __future__ import annotations

import warnings
from pathlib import Path

from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Timer

from guda_lightning import compat
from guda_lightning.callbacks import ResumeCheckpoint
from guda_lightning.diffusion.checkpoints import unreadable_globals
from guda_lightning.distributed.ranks import Ranks
from guda_lightning.distributed.strategies import refuse_unsharded
from guda_lightning.errors import ConfigError, StoreError
from guda_lightning.makers.costs import say

_EXPECTED_WARNINGS = (
    ".*module\\(s\\) in eval mode at the start of training",  # the frozen full model, and moving averages
    "Checkpoint directory .* exists and is not empty",  # that is how a stage goes on
    "`isinstance\\(treespec, LeafSpec\\)` is deprecated",  # Lightning 2.6 on torch 2.13
    "The number of training batches .* is smaller than the logging interval",  # short epochs are usual here
)


def fit(
    trainer: Trainer,
    module: LightningModule,
    datamodule: LightningDataModule | None,
    checkpoint: ResumeCheckpoint,
) -> None:
    """Train, going on from the checkpoint if there is one.

    Raises:
        KeyboardInterrupt: The user interrupted; nothing counts as complete.
        ConfigError: Its time was over before its steps or epochs were; nothing counts as complete.
        StoreError: The checkpoint holds objects that cannot be read without running their code.
    """
    refuse_unsharded(trainer, module)
    if checkpoint.path is not None:
        _refuse_objects(checkpoint.path)
        say(f"going on from {checkpoint.path}")
    try:
        with warnings.catch_warnings():
            for message in _EXPECTED_WARNINGS:
                warnings.filterwarnings("ignore", message)
            trainer.fit(module, datamodule=datamodule, ckpt_path=checkpoint.path, weights_only=True)
    except SystemExit as exit_:
        if trainer.interrupted:
            raise KeyboardInterrupt from exit_
        raise
    _refuse_out_of_time(trainer)


def _refuse_objects(path: Path) -> None:
    if unknown := unreadable_globals(path):
        raise StoreError(
            f"{path} cannot be read without running code of the classes in it",
            found=", ".join(unknown),
            expected="tensors, numbers, texts, and lists and dicts of them",
            fix="let the state_dict and on_save_checkpoint of your module and callbacks return these, and "
            f"remove {path.parent} to begin again",
        )


def _refuse_out_of_time(trainer: Trainer) -> None:
    """Refuse what Lightning takes for a finished training: one that ``max_time`` cut short."""
    timers = [callback for callback in compat.callbacks(trainer) if isinstance(callback, Timer)]
    left = [seconds for timer in timers if (seconds := timer.time_remaining()) is not None]
    ends = {"max_steps": (trainer.global_step, trainer.max_steps)}
    ends["max_epochs"] = (trainer.current_epoch, trainer.max_epochs or -1)
    set_ends = {name: end for name, end in ends.items() if end[1] >= 0}
    over = min(left, default=1) <= 0 and set_ends and all(now < end for now, end in set_ends.values())
    if Ranks.of(trainer).broadcast(over):  # by one clock
        raise ConfigError(
            "trainer.max_time was over before the training was",
            found=", ".join(f"{now} of {end} ({name})" for name, (now, end) in set_ends.items()),
            expected="all steps or epochs",
            fix="raise max_time, which counts all attempts, or leave it out: the same command goes on "
            "from the last whole epoch",
        )
