"""What all stages share: a run folder, the recipe of a trainer, and the full model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BatchSizeFinder

from guda_lightning.data import GroupDataModule, QueryFolder
from guda_lightning.diffusion import FullModel, refuse_nonfinite
from guda_lightning.diffusion.labels import refuse_labels
from guda_lightning.distributed.strategies import refuse_strategy
from guda_lightning.errors import ConfigError, QueryError, check_range
from guda_lightning.makers.layout import Layout
from guda_lightning.makers.trainers import TrainerFactory, unused
from guda_lightning.storage.full_record import FullRecord
from guda_lightning.storage.paths import refuse_missing_full, user_path
from guda_lightning.storage.runs import RunFolder


class StageTrainer(Trainer):
    """A trainer with a run folder.

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
        check_range(
            "trainer.resume_every_n_epochs",
            resume_every_n_epochs,
            ge=1,
            fix="correct --trainer.resume_every_n_epochs",
        )
        self.layout = Layout(denoiser, scheduler, conditional, start)
        self._recipe, self._resume_every_n_epochs = unused(kwargs), resume_every_n_epochs
        _refuse(kwargs)
        super().__init__(**kwargs)
        refuse_strategy(self)

    @property
    def run_folder(self) -> RunFolder:
        """Where everything of this run lies."""
        return RunFolder(Path(self.default_root_dir))

    @property
    def trainers(self) -> TrainerFactory:
        """Makes fresh trainers like this one."""
        return TrainerFactory(self.run_folder, self._recipe, self._resume_every_n_epochs)

    def open_full(self, path: Path | None, model: LightningModule, datamodule: GroupDataModule) -> FullModel:
        """The full model of this run, or one that the user brings; raises as ``opened_full``."""
        return opened_full(self.run_folder, self.layout, model, datamodule, path)

    def listed_queries(
        self, queries: Path | None, resize: bool = False, full: Path | None = None
    ) -> QueryFolder:
        """The queries of this run, or those that the user brings, listed before model and data are read.

        Args:
            queries: The user's own, an image or a folder of images.
            resize: Whether to make pictures of another size fit.
            full: The user's own full model; what has none says so first.

        Raises:
            StoreError: There is no full model, or a stage wrote the queries, and they are damaged.
            QueryError: There are no queries, or the folder holds what is none.
        """
        refuse_missing_full(full or self.run_folder.full)
        path = self.run_folder.queries if queries is None else user_path(queries)
        if queries is None and not path.is_dir():
            raise QueryError(
                "there are no queries",
                found=f"nothing at {path}",
                expected="images to explain",
                fix="run `guda sample` with the same configuration first, or pass --queries FILE|FOLDER",
            )
        return QueryFolder(path, resize=resize)


def computing(trainer: Trainer) -> dict[str, Any]:
    """What of the machine bears on the last bits of what a trainer computes, as JSON values."""
    device = trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return {"threads": torch.get_num_threads(), "device": name, "processes": trainer.world_size}


def opened_full(
    run: RunFolder,
    layout: Layout,
    model: LightningModule,
    datamodule: GroupDataModule,
    path: Path | None = None,
) -> FullModel:
    """The full model of a run, or one that the user brings; it must take images like the data's.

    Args:
        run: The run folder.
        layout: Where the module has its diffusion model.
        model: The module that the full model was trained as.
        datamodule: The training data.
        path: The user's own: a diffusers folder or a Lightning checkpoint.

    Raises:
        StoreError: There is none, or it was trained on other data or groups.
        ConfigError: It does not take the class labels of the data.
        DataError: It takes images of another size.
    """
    full = layout.open(path or run.full, model)
    record = FullRecord.of_run(run.full) if path is None else None
    if record is not None and record.input_shape is None:
        datamodule.keep_size()
    datamodule.take_size(full.model.sample_size)
    refuse_nonfinite(full, str(path or run.root))
    if record is not None:
        record.refuse_other_data(run.full, datamodule.identity)
    prompted = full.prompted(datamodule.prompts)
    refuse_labels(prompted.model, datamodule.num_classes)
    return prompted


def _refuse(arguments: Mapping[str, Any]) -> None:
    """Refuse what Lightning's Trainer takes, and what then fails or trains away from the goal."""
    for name in ("accumulate_grad_batches", "check_val_every_n_epoch"):
        check_range(f"trainer.{name}", arguments.get(name), ge=1, fix=f"correct --trainer.{name}")
    for name in ("max_steps", "max_epochs"):
        if arguments.get(name) not in (None, -1):
            expected = f"{name} >= 1, or -1 where something else ends the training"
            check_range(
                f"trainer.{name}", arguments[name], ge=1, expected=expected, fix=f"correct --trainer.{name}"
            )
    check_range(
        "trainer.log_every_n_steps",
        arguments.get("log_every_n_steps"),
        ge=0,
        fix="correct --trainer.log_every_n_steps",
    )
    fix = "leave out --trainer.gradient_clip_val, or pass a positive one"
    check_range("trainer.gradient_clip_val", arguments.get("gradient_clip_val"), ge=0, fix=fix)
    if arguments.get("barebones"):
        raise ConfigError(
            "a stage needs what trainer.barebones leaves out",
            found="barebones: true",
            expected="the checkpoint that an interrupted training goes on from",
            fix="remove trainer.barebones",
        )
    given = arguments.get("callbacks") or []
    if any(isinstance(one, BatchSizeFinder) for one in (given if isinstance(given, list) else [given])):
        raise ConfigError(
            "BatchSizeFinder makes a training depend on the memory of the machine",
            found="BatchSizeFinder among trainer.callbacks",
            expected="the batch size that records tell",
            fix="remove it, and set data.init_args.batch_size",
        )
