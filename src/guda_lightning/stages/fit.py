"""``guda fit`` and ``guda validate``: the full model."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule

from guda_lightning.counterfactuals import versions
from guda_lightning.data import GroupDataModule
from guda_lightning.diffusion import FullModel, open_full, refuse_nonfinite, save_full
from guda_lightning.diffusion.cost import TrainingCost
from guda_lightning.distributed.strategies import refuse_unsharded
from guda_lightning.makers.costs import say, say_fit_cost, spent
from guda_lightning.report.wandb import closing_runs
from guda_lightning.stages.base import StageTrainer, fit, networks
from guda_lightning.stages.records import (
    RECORD,
    begin,
    log_record,
    refuse_other_config,
    write_record,
)
from guda_lightning.storage.files import atomic_folder


class FitStage(StageTrainer):
    """Trains the full model."""

    def fit_full(
        self,
        model: LightningModule,
        datamodule: LightningDataModule | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> Path:
        """Train the full model and save it as a diffusers folder; goes on where it was interrupted.

        Args:
            model: A DiffusionModule, or any LightningModule whose parts this trainer was told.
            datamodule: The training data; may be left out if the module has its own loaders.
            config: What the model is made from; a complete or begun training with another one is refused.

        Raises:
            StoreError: The run folder holds a full model of another configuration.
        """
        run, config = self.run_folder, dict(config or {})
        if (run.full / RECORD).is_file():
            refuse_other_config(run.full / RECORD, config)
            say(f"fit: {run.full} is complete, skipped")
            return run.full
        full = self._at_start(model)  # a wrong path is refused before training
        if isinstance(datamodule, GroupDataModule):
            datamodule.setup()  # and so is bad data, before anything is written
        with closing_runs():
            cost = TrainingCost(*networks(model, full))
            trainer, checkpoint = self._fresh("fit", "full", run.checkpoints("fit"), cost)
            if isinstance(datamodule, GroupDataModule):
                conditional = self._is_conditional(model)
                say_fit_cost("fit", trainer, model, full, datamodule, conditional)
            if self.is_global_zero:
                begin(checkpoint.folder, config)
            log_record(trainer, {"config": config})
            fit(trainer, model, datamodule, checkpoint)
            full = FullModel.of(model, **self._paths)
            refuse_nonfinite(full, str(run.root))
            record = {
                "complete": True,
                "full_hash": full.hash,
                "schedule_hash": full.model.schedule.hash,
                "config": config,
                "steps": trainer.global_step,
                "seconds": cost.seconds,
                "network_evaluations": cost.evaluations,
                "versions": versions(),
            }
            if isinstance(datamodule, GroupDataModule):
                record |= {
                    "grouping_hash": datamodule.grouping.hash,
                    "data_hash": datamodule.hash,
                }
            log_record(trainer, record)
        if self.is_global_zero:
            with atomic_folder(run.full) as folder:
                save_full(folder, full)
                write_record(folder, record)
            checkpoint.discard()
        trainer.strategy.barrier()  # no rank reads what rank zero still writes
        say(f"fit: {run.full} written, {spent(record)}")
        return run.full

    def validate_full(
        self,
        model: LightningModule,
        datamodule: LightningDataModule | None = None,
        ckpt_path: str | None = None,
        verbose: bool = True,
    ) -> None:
        """Validate the full model, with its callbacks.

        Args:
            model: The module that the full model was trained as.
            datamodule: The data to validate on; may be left out if the module has its own loaders.
            ckpt_path: A Lightning checkpoint of the weights; RUN/full if left out.
            verbose: Whether to print the metrics.
        """
        if ckpt_path is None:
            full = open_full(self.run_folder.full, copy.deepcopy(model), **self._paths)
            FullModel.of(model, **self._paths).model.denoiser.load_state_dict(
                full.model.denoiser.state_dict()
            )
        with closing_runs():
            trainer, _ = self._fresh("validate", "full", self.run_folder.checkpoints("validate"))
            refuse_unsharded(trainer, model)
            trainer.validate(model, datamodule=datamodule, ckpt_path=ckpt_path, verbose=verbose)
