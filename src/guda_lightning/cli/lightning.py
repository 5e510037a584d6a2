"""The stages as subcommands of a stock LightningCLI."""

from __future__ import annotations

import argparse
import json
import logging
import re
import textwrap
import warnings
from collections.abc import Sequence
from typing import Any

from jsonargparse import Namespace, set_parsing_settings
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from guda_lightning.errors import ConfigError, GudaError
from guda_lightning.stages.trainer import GudaTrainer

_OURS = (
    "--trainer.denoiser",
    "--trainer.scheduler",
    "--trainer.conditional",
    "--trainer.resume_every_n_epochs",
    "--trainer.start",
)  # the rest are those of every Lightning trainer
_FROM_FIT = ("model", "data", "seed_everything")  # sections that make the full model what it is

_FROM_FIT_TRAINER = (
    "max_steps",
    "max_epochs",
    "precision",
    "accumulate_grad_batches",
    "gradient_clip_val",
    "gradient_clip_algorithm",
    "limit_train_batches",
    "start",
)

_STORAGE = ("cache", "encode_batch_size", "gradient_checkpointing")  # change where and how, not what


class StageParser(LightningArgumentParser):
    """Help that begins with a stage's own options, where LightningCLI begins with 40 of the Trainer."""

    def format_help(self, formatter: argparse.HelpFormatter | None = None) -> str:
        """The same sections in the order that a reader wants them; the Trainer's options by name alone."""
        usage, about, *sections = re.split(r"\n\n(?=\S)", super().format_help(formatter).rstrip())
        own, shared, rest = [], [], []
        for section in sections:
            title, _, body = section.partition("\n")
            if title == "options:":
                shared.append(f"options of every stage:\n{body}")
            elif "\n  --trainer " in section:
                options = re.split(r"\n(?=  -)", body)
                ours = [option for option in options if option.split()[0] in _OURS]
                names = re.findall(r"^  (--trainer\.\w+)(?!\S)", body, re.MULTILINE)
                listed = " ".join(name for name in dict.fromkeys(names) if name not in _OURS)
                rest += [
                    "\n".join(["model that is no DiffusionModule:", *ours]),
                    "arguments of lightning.Trainer, which Lightning's documentation explains:\n"
                    + textwrap.fill(listed, 79, initial_indent="  ", subsequent_indent="  "),
                ]
            elif "\n  --model " in section:
                shared.append(f"model:\n{body}")
            elif "\n  --data " in section:
                shared.append(f"data:\n{body}")
            elif title != "Linked arguments:":
                own.append(f"options of this stage:\n{body}")
        return "\n\n".join([usage, about, *own, *shared, *rest]) + "\n"


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
            "unlearn": model_and_data | {"resolved"},
            "guide": model_and_data,
            "retrain": {"build", "datamodule", "config", "resolved"},
            "sample": model_and_data,
            "attribute": model_and_data,
            "placebo": model_and_data,
        }

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """One run folder for all stages."""
        parser.add_argument(
            "--run", type=str | None, help="Run folder: everything is read and written there."
        )
        parser.link_arguments("run", "trainer.default_root_dir")
        parser.add_argument(
            "--pretrained",
            type=str | None,
            help="Folder or hub name of a diffusers pipeline, for ${pretrained} in a configuration.",
        )

    def before_instantiate_classes(self) -> None:
        """Refuse a stage that has nothing to work on.

        Raises:
            ConfigError: There is no run folder, or a stage that needs groups got no data.
        """
        if self.config[self.subcommand].run is None:
            raise ConfigError(
                f"guda {self.subcommand} needs a run folder",
                found="no run folder in the configuration",
                expected="a folder to read and write",
                fix="add `run: runs/mine` to the configuration, or pass --run runs/mine",
            )
        if self.subcommand not in ("fit", "validate") and not self.config[self.subcommand].data:
            raise ConfigError(
                f"guda {self.subcommand} needs the training data",
                found="no data in the configuration",
                expected="a GroupDataModule, which knows the groups",
                fix="add the section `data`, as in digits.yaml of `guda configs`",
            )

    def fit(self, model: LightningModule, **kwargs: Any) -> None:
        """Train the full model: as LightningCLI does, but skipping and resuming."""
        trainer: Any = self.trainer
        trainer.fit_full(model, self.datamodule, config=self._made_from())

    def unlearn(self, model: LightningModule, **options: Any) -> None:
        """Unlearn: as LightningCLI does, but the processes of a spread are told the configuration."""
        trainer: Any = self.trainer
        trainer.unlearn(model, resolved=self._resolved(), **options)

    def retrain(self, model: LightningModule, **options: Any) -> None:
        """Train the oracle: every model of it is built anew from the configuration."""
        trainer: Any = self.trainer
        config = self._made_from()
        trainer.retrain(self._build, config=config, resolved=self._resolved(), **options)

    def _resolved(self) -> str:
        """The configuration of a stage as YAML with all values, for processes that do the same elsewhere."""
        config = self.config[self.subcommand].clone()
        config.spread = None
        dumped: str = self._parser(self.subcommand).dump(config, skip_none=False)
        return dumped

    def validate(self, model: LightningModule, **options: Any) -> None:
        """Validate: as LightningCLI does, but the weights are RUN/full unless a checkpoint is named."""
        trainer: Any = self.trainer
        trainer.validate_full(model, **options)

    def _made_from(self) -> dict[str, Any]:
        """What makes the full model, and the oracle, what it is."""
        parser = self._parser(self.subcommand)  # which writes paths and enumerations as text
        config = json.loads(parser.dump(self.config[self.subcommand], format="json", skip_none=False))
        made_from = {key: config.get(key) for key in _FROM_FIT}
        for section in ("model", "data"):
            for name in _STORAGE:
                ((made_from[section] or {}).get("init_args") or {}).pop(name, None)
        made_from["trainer"] = {key: config["trainer"][key] for key in _FROM_FIT_TRAINER}
        # What one step learns from: the batches of all processes together, however many those are.
        trainer: Any = self.trainer
        loaded = (made_from["data"] or {}).get("init_args") or {}
        if isinstance(loaded.get("batch_size"), int):
            loaded["batch_size"] *= trainer.world_size
        else:
            made_from["trainer"]["world_size"] = trainer.world_size
        return made_from

    def _build(self) -> LightningModule:
        """The untrained module of the configuration, once more."""
        section = Namespace(model=self.config[self.subcommand].model.clone())
        built: LightningModule = self._parser(self.subcommand).instantiate_classes(section).model
        return built

    def instantiate_classes(self) -> None:
        """Build trainer, model and data.

        Raises:
            GudaError: One of them refuses its arguments.
        """
        try:
            super().instantiate_classes()
        except (MisconfigurationException, ValueError, TypeError) as error:
            refused = _cause(error)
            if refused is not None:
                raise refused from None
            raise ConfigError(
                "the configuration cannot be built",
                found=" ".join(str(error).split())[-300:],
                expected="arguments that the trainer, the model and the data accept",
                fix=f"`guda {self.subcommand} ... --print_config` shows all values",
            ) from error


def _cause(error: BaseException | None) -> GudaError | None:
    """The error of ours that another library has wrapped, if there is one."""
    while error is not None and not isinstance(error, GudaError):
        error = error.__cause__ or error.__context__
    return error


def _cli_of(stage: str) -> type[GudaCLI]:
    """A CLI with one subcommand: making the parsers of all stages takes longer than parsing."""

    class OneStage(GudaCLI):
        @staticmethod
        def subcommands() -> dict[str, set[str]]:
            return {stage: GudaCLI.subcommands()[stage]}

    return OneStage


def run_stage(arguments: Sequence[str]) -> GudaTrainer:
    """Parse the arguments of one stage, run it, and return the trainer that it ran on."""
    # Lightning reports its hardware and tips for every trainer, and a stage makes one for every group.
    for name in ("lightning.fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Interpolation such as ${run} across several files and flags.
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "LightningCLI's args parameter"
        )  # main(args) is meant for Python, too
        warnings.filterwarnings("ignore", ".*does not have many workers")  # batches are cut from memory
        cli = _cli_of(arguments[0])(
            trainer_class=GudaTrainer,
            model_class=LightningModule,
            subclass_mode_model=True,
            save_config_callback=None,  # fit keeps the configuration in its record
            seed_everything_default=0,
            parser_class=StageParser,
            parser_kwargs={
                "prog": "guda",
                "parser_mode": "omegaconf+",
                arguments[0]: {"usage": f"guda {arguments[0]} -c FILE [-c FILE ...] [--OPTION VALUE ...]"},
            },
            auto_configure_optimizers=False,
            args=list(arguments),
        )
    trainer: Any = cli.trainer
    ran: GudaTrainer = trainer
    return ran
