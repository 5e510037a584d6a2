"""Fresh trainers, one for each training: a second ``fit`` on a used Trainer silently does nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer

from guda_lightning import compat
from guda_lightning.callbacks import ResumeCheckpoint
from guda_lightning.callbacks.progress import quiet
from guda_lightning.diffusion.cost import TrainingCost
from guda_lightning.diffusion.training import changing_callbacks, refuse_endless, stopped_by
from guda_lightning.distributed.strategies import connected
from guda_lightning.errors import StoreError
from guda_lightning.makers.costs import say
from guda_lightning.makers.locking import locked_by, of_rank_zero
from guda_lightning.makers.training import fit
from guda_lightning.report.artifacts import log_weights
from guda_lightning.report.wandb import closing_runs, stage_loggers
from guda_lightning.storage.config import begin, read_back
from guda_lightning.storage.files import read_json
from guda_lightning.storage.leftovers import discard
from guda_lightning.storage.runs import RunFolder
from guda_lightning.storage.weights_record import RECORD

_Kept = TypeVar("_Kept")


@dataclass(frozen=True)
class Training:
    """One training, and the trainer that it needs.

    Attributes:
        stage: The stage that it belongs to, for loggers.
        name: What is trained, for loggers.
        folder: Name of the folder for what it resumes from.
        made_from: What identifies it: an unfinished training that was made from something else is refused.
        hparams: What loggers get, as JSON values.
        settings: Arguments of ``lightning.Trainer`` that differ from the user's.
        callbacks: Callbacks besides the user's.
        epochs: Epochs between checkpoints, unless the user wants more.
    """

    stage: str
    name: str
    folder: str
    made_from: Mapping[str, Any] = field(default_factory=dict)
    hparams: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    callbacks: Sequence[Callback] = ()
    epochs: int = 1


@dataclass(frozen=True)
class TrainerFactory:
    """Makes and runs the trainers of a run.

    Attributes:
        run: Where unfinished trainings keep what they resume from.
        recipe: Arguments of ``lightning.Trainer`` that all trainings share.
        resume_every_n_epochs: Epochs between checkpoints, at least.
    """

    run: RunFolder
    recipe: Mapping[str, Any]
    resume_every_n_epochs: int = 1

    def train(
        self,
        training: Training,
        module: LightningModule,
        data: LightningDataModule | None,
        keep: Callable[[Trainer], _Kept],
        stored: Callable[[], bool],
    ) -> _Kept | None:
        """Train a module to its end, continuing what was interrupted, and keep what it became.

        Where another command trains the same in this run folder, it waits for that.

        Args:
            training: What it is.
            module: What to train.
            data: What to train on; None where the module has its own loaders.
            keep: Called on all processes with the trainer once training has ended; what it has stored, it
                returns. Only then is the checkpoint removed.
            stored: Whether it is stored already.

        Returns:
            What ``keep`` returns. None where another command has stored it meanwhile, and after a dry run
            (``fast_dev_run``), which is begun anew, tries a few batches and leaves nothing behind.

        Raises:
            KeyboardInterrupt: The user interrupted; nothing counts as complete.
            GudaError: The unfinished training was made from something else, has no end, or stopped.
        """
        trainer, checkpoint = self.fresh(training)
        if compat.is_dry_run(trainer):
            with closing_runs():
                fit(trainer, module, data, None)
                say(f"{_title(training)}: dry run of {trainer.global_step} steps, nothing is kept")
                return None
        refuse_endless(trainer)
        ranks = connected(trainer)
        with locked_by(ranks, self.run, checkpoint.folder):
            if of_rank_zero(ranks, stored):
                say(f"{_title(training)}: made by another command meanwhile, skipped")
                return None
            with closing_runs():
                ranks.on_rank_zero(partial(begin, checkpoint.folder, training.made_from))
                log_hparams(trainer, training.hparams)
                fit(trainer, module, data, checkpoint)
                kept = keep(trainer)
                if trainer.is_global_zero:
                    log_weights(trainer.loggers, self.run, kept)
            ranks.on_rank_zero(checkpoint.discard)
        return kept

    def discard_unfinished(self, folder: str, made_from: Mapping[str, Any]) -> None:
        """Remove what a kill has left of a training after what it made was stored.

        Args:
            folder: Name of the folder for what it resumes from.
            made_from: As that of the training; one that was made from something else stays.
        """
        unfinished = self.run.checkpoints(folder)
        with suppress(StoreError):
            if read_json(unfinished / RECORD).get("config") == read_back(made_from):
                discard(unfinished)

    def fresh(self, training: Training) -> tuple[Trainer, ResumeCheckpoint]:
        """An unused trainer for one training, and the checkpoint that it resumes from."""
        name = f"{training.stage} {training.name}"
        recipe = quiet(unused({**self.recipe, **training.settings}), _title(training))
        checkpoint = ResumeCheckpoint(
            self.run.checkpoints(training.folder), max(training.epochs, self.resume_every_n_epochs)
        )
        recipe["callbacks"] += [*training.callbacks, *([] if recipe.get("fast_dev_run") else [checkpoint])]
        recipe["enable_checkpointing"] = True
        logger = recipe.get("logger")
        if logger not in (None, True, False):
            loggers = logger if isinstance(logger, list) else [logger]
            recipe["logger"] = stage_loggers(loggers, self.run.name, training.stage, name)
        return Trainer(**recipe), checkpoint

    def silent(self) -> TrainerFactory:
        """Trainers that log and print nothing, and validate only for callbacks that change a training.

        Nothing of a random group is worth a log, a curve or a checkpoint callback of the user's.
        """
        given = self.recipe.get("callbacks") or []
        callbacks = changing_callbacks(given if isinstance(given, list) else [given])
        silent: dict[str, Any] = {"logger": False, "callbacks": callbacks, "enable_progress_bar": False}
        return replace(
            self, recipe={**self.recipe, **silent, **({} if callbacks else {"limit_val_batches": 0})}
        )


def _title(training: Training) -> str:
    return training.stage if training.name == "full" else f"{training.stage} {training.name}"


def unused(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Copies for one trainer: callbacks and strategies keep what a training left in them.

    Loggers are no copies: those of each training are made from them.
    """
    return {name: value if name == "logger" else copy.deepcopy(value) for name, value in arguments.items()}


def log_hparams(trainer: Trainer, hparams: Mapping[str, Any]) -> None:
    """Give all loggers the hyper-parameters of a training."""
    for logger in trainer.loggers:
        logger.log_hyperparams(dict(hparams))


def spent_by(trainer: Trainer, cost: TrainingCost) -> dict[str, Any]:
    """The entries of a record that say what a training did cost, and what has ended it."""
    return {
        "seconds": cost.seconds,
        "core_seconds": cost.core_seconds,
        "steps": trainer.global_step,
        "network_evaluations": cost.evaluations,
        "stopped": stopped_by(trainer),
    }
