"""The stages as subcommands of a stock LightningCLI."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import set_parsing_settings
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from guda_lightning.trainer import GudaTrainer

_FROM_FIT = ("model", "data", "seed_everything")  # sections that make the full model what it is


class GudaCLI(LightningCLI):
    """LightningCLI with the stages of ``GudaTrainer``, a run folder, and a ``fit`` that resumes and skips."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Trainer methods that are subcommands, with the arguments that the CLI fills in."""
        model_and_data = {"model", "datamodule"}
        return {
            "fit": {
                "model",
                "train_dataloaders",
                "val_dataloaders",
                "datamodule",
                "ckpt_path",
                "weights_only",
            },
            "validate": {"model", "dataloaders", "datamodule", "weights_only"},
            "unlearn": model_and_data,
            "sample": model_and_data,
            "attribute": model_and_data,
        }

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """One run folder for all stages."""
        parser.add_argument(
            "--run", type=str, required=True, help="Run folder: everything is read and written there."
        )
        parser.link_arguments("run", "trainer.default_root_dir")

    def fit(self, model: LightningModule, **kwargs: Any) -> None:
        """Train the full model: as LightningCLI does, but skipping and resuming."""
        config = self.config["fit"].as_dict()
        made_from = {key: config.get(key) for key in _FROM_FIT}
        made_from["trainer"] = {
            key: config["trainer"][key] for key in ("max_steps", "max_epochs", "precision")
        }
        trainer: Any = self.trainer
        trainer.fit_full(model, self.datamodule, config=made_from)

    def validate(self, model: LightningModule, ckpt_path: str | None = None, **kwargs: Any) -> None:
        """Validate: as LightningCLI does, but the weights are RUN/full unless a checkpoint is named."""
        trainer: Any = self.trainer
        if ckpt_path is None:
            trainer.load_full(model)
        trainer.validate(model, ckpt_path=ckpt_path, **kwargs)


def run_stage(arguments: Sequence[str]) -> Path:
    """Parse the arguments of one stage, run it, and return its run folder."""
    # Lightning reports its hardware and tips for every trainer, and a stage makes one for every group.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    # Interpolation such as ${run} across several files and flags.
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "LightningCLI's args parameter"
        )  # main(args) is meant for Python, too
        warnings.filterwarnings("ignore", ".*does not have many workers")  # batches are cut from memory
        cli = GudaCLI(
            trainer_class=GudaTrainer,
            model_class=LightningModule,
            subclass_mode_model=True,
            save_config_callback=None,  # fit keeps the configuration in its record
            seed_everything_default=0,
            parser_kwargs={"parser_mode": "omegaconf+"},
            auto_configure_optimizers=False,
            args=list(arguments),
        )
    return Path(cli.trainer.default_root_dir)
