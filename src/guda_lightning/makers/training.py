"""One ``trainer.fit``: where it continues, and when it has not come to its end."""

from __future__ import annotations

import warnings
from pathlib import Path

from lightning.pytorch import LightningDataModule, LightningModule, Trainer

from guda_lightning import compat
from guda_lightning.callbacks import ResumeCheckpoint
from guda_lightning.diffusion.checkpoints import unreadable_globals
from guda_lightning.diffusion.training import stopped_by
from guda_lightning.distributed.ranks import Ranks
from guda_lightning.distributed.strategies import refuse_unsharded
from guda_lightning.errors import StoreError
from guda_lightning.makers.costs import say
from guda_lightning.makers.locking import of_rank_zero

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
    checkpoint: ResumeCheckpoint | None,
) -> None:
    """Train to the configured end, going on from the checkpoint if there is one; None: a dry run.

    Raises:
        KeyboardInterrupt: The user interrupted; nothing counts as complete.
        ConfigError: It has stopped before its end; nothing counts as complete.
        StoreError: The checkpoint holds objects that cannot be read without running their code.
    """
    refuse_unsharded(trainer, module)
    path = None if checkpoint is None else _found(trainer, checkpoint)
    if path is not None:
        _refuse_objects(path)
        say(f"going on from {path}")
    try:
        with warnings.catch_warnings():
            for message in _EXPECTED_WARNINGS:
                warnings.filterwarnings("ignore", message)
            trainer.fit(module, datamodule=datamodule, ckpt_path=path, weights_only=True)
    except SystemExit as exit_:
        if trainer.interrupted:
            raise KeyboardInterrupt from exit_
        raise
    if not compat.is_dry_run(trainer):
        stopped_by(trainer)  # refuses what Lightning takes for a finished training


def _found(trainer: Trainer, checkpoint: ResumeCheckpoint) -> Path | None:
    """What the first process goes on from; were each to look, one could meet what another is removing."""
    return of_rank_zero(Ranks.of(trainer), lambda: checkpoint.path)


def _refuse_objects(path: Path) -> None:
    if unknown := unreadable_globals(path):
        raise StoreError(
            f"{path} cannot be read without running code of the classes in it",
            found=", ".join(unknown),
            expected="tensors, numbers, texts, and lists and dicts of them",
            fix="let the state_dict and on_save_checkpoint of your module and callbacks return these, and "
            f"remove {path.parent} to begin again",
        )
