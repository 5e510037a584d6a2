"""What all stages share."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, Timer
from torch import nn

from guda_lightning import compat
from guda_lightning.callbacks import ResumeCheckpoint
from guda_lightning.callbacks.progress import TaskProgress
from guda_lightning.data import GroupDataModule
from guda_lightning.diffusion import (
    DiffusionModule,
    FullModel,
    load_weights,
    open_full,
    refuse_nonfinite,
)
from guda_lightning.distributed.ranks import Ranks
from guda_lightning.distributed.strategies import refuse_strategy, refuse_unsharded
from guda_lightning.errors import ConfigError, QueryError
from guda_lightning.makers.costs import say
from guda_lightning.report.wandb import stage_loggers
from guda_lightning.stages.records import RECORD, refuse_other_data
from guda_lightning.storage.paths import refuse_missing_start
from guda_lightning.storage.runs import RunFolder

_EXPECTED_WARNINGS = (
    ".*module\\(s\\) in eval mode at the start of training",  # the frozen full model, and moving averages
    "Checkpoint directory .* exists and is not empty",  # that is how a stage goes on
    "`isinstance\\(treespec, LeafSpec\\)` is deprecated",  # Lightning 2.6 on torch 2.13
    "The number of training batches .* is smaller than the logging interval",  # short epochs are usual here
)


class StageTrainer(Trainer):
    """What all stages share: a run folder, the recipe of a trainer, and the full model.

    Every stage that trains works on a fresh trainer with fresh copies of the callbacks and loggers, because a
    second ``fit`` on a used Trainer silently does nothing.

    Args:
        denoiser: Where a LightningModule that is no ``DiffusionModule`` has its network, by dotted path.
        scheduler: Where it has its noise scheduler, by dotted path.
        conditional: Whether its network takes class labels or prompts; a ``DiffusionModule`` says so itself.
        resume_every_n_epochs: How often a training writes the checkpoint to go on from when interrupted.
        start: Weights that ``fit`` and ``retrain`` begin with, a diffusers folder or a Lightning checkpoint:
            the pretrained model that is fine-tuned. Left out, they begin with those the module is built with.
        **kwargs: All arguments of ``lightning.Trainer``.

    Attributes:
        makes_the_model: Arguments that make the full model, and the oracle, what it is; all others say where
            and how to compute, or what to report.
    """

    makes_the_model: ClassVar[tuple[str, ...]] = (
        "max_steps",
        "max_epochs",
        "precision",
        "accumulate_grad_batches",
        "gradient_clip_val",
        "gradient_clip_algorithm",
        "limit_train_batches",
        "start",
    )

    def __init__(
        self,
        denoiser: str | None = None,
        scheduler: str | None = None,
        conditional: bool = False,
        resume_every_n_epochs: int = 1,
        start: Path | None = None,
        **kwargs: Any,
    ) -> None:
        self._paths = {"denoiser": denoiser, "scheduler": scheduler}
        self._conditional, self._resume_every_n_epochs = conditional, resume_every_n_epochs
        self._start = start
        self._recipe = _unused(kwargs)
        super().__init__(**kwargs)
        refuse_strategy(self)

    @property
    def run_folder(self) -> RunFolder:
        """Where everything of this run lies."""
        return RunFolder(Path(self.default_root_dir))

    def _open_full(self, path: Path | None, model: LightningModule, datamodule: GroupDataModule) -> FullModel:
        """The full model of this run, or one that the user brings; it must take images like the data's.

        Raises:
            StoreError: There is none, or it was trained on other data or groups.
        """
        full = open_full(path or self.run_folder.full, model, **self._paths)
        record = self.run_folder.full / RECORD
        refuse_nonfinite(full, str(path or self.run_folder.root))
        if path is None:
            refuse_other_data(record, datamodule)
        return full.prompted(datamodule.prompts)

    def _at_start(self, model: LightningModule) -> FullModel:
        """Give an untrained module the weights that training starts from.

        Raises:
            StoreError: They cannot be read, or do not fit.
        """
        full = FullModel.of(model, **self._paths)
        if self._start is not None:
            refuse_missing_start(self._start)
            weights = open_full(self._start, copy.deepcopy(model), **self._paths).model.denoiser.state_dict()
            for network in networks(model, full):
                load_weights(network, weights, self._start)
        return FullModel.of(model, **self._paths)

    def _is_conditional(self, model: LightningModule) -> bool:
        return model.conditional if isinstance(model, DiffusionModule) else self._conditional

    def _query_path(self, queries: Path | None) -> Path:
        path = queries or self.run_folder.queries
        if queries is None and not path.is_dir():
            raise QueryError(
                "there are no queries",
                found=f"nothing at {path}",
                expected="images to explain",
                fix="run `guda sample` with the same configuration first, or pass --queries FILE|FOLDER",
            )
        return path

    def _fresh(
        self, stage: str, name: str, folder: Path, *callbacks: Callback, epochs: int = 1, **overrides: Any
    ) -> tuple[Trainer, ResumeCheckpoint]:
        """An unused trainer for one training, and the checkpoint that it resumes from.

        A user's ``resume_every_n_epochs`` counts where it is more than ``epochs``.
        """
        recipe = _unused({**self._recipe, **overrides})
        checkpoint = ResumeCheckpoint(folder, max(epochs, self._resume_every_n_epochs))
        given = recipe.get("callbacks") or []
        given = given if isinstance(given, list) else [given]
        told = TaskProgress.of_task()
        if told and not any(isinstance(callback, ProgressBar) for callback in given):
            recipe["enable_progress_bar"] = False  # its lines are for a screen, and a task prints into a file
        recipe["callbacks"] = [*given, *callbacks, *told, checkpoint]
        recipe["enable_checkpointing"] = True
        logger = recipe.get("logger")
        if logger not in (None, True, False):
            loggers = logger if isinstance(logger, list) else [logger]
            recipe["logger"] = stage_loggers(loggers, self.run_folder.name, stage, f"{stage} {name}")
        return Trainer(**recipe), checkpoint


def _unused(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Copies for one trainer: callbacks and strategies keep what a training left in them.

    Loggers are no copies: those of each training are made from them.
    """
    return {name: value if name == "logger" else copy.deepcopy(value) for name, value in arguments.items()}


def fit(
    trainer: Trainer,
    module: LightningModule,
    datamodule: LightningDataModule | None,
    checkpoint: ResumeCheckpoint,
) -> None:
    """Train, going on from the checkpoint if there is one.

    Raises:
        KeyboardInterrupt: The user interrupted; nothing counts as complete.
        ConfigError: Its time was over before its steps or epochs were: likewise.
    """
    refuse_unsharded(trainer, module)
    if checkpoint.path is not None:
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


def networks(model: LightningModule, full: FullModel) -> list[nn.Module]:
    """The networks that training evaluates: the one that is trained and, where it differs, its average."""
    trained = model.denoiser if isinstance(model, DiffusionModule) else full.model.denoiser
    return [trained] if trained is full.model.denoiser else [trained, full.model.denoiser]
