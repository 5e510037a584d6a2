"""A stage on a stock LightningCLI: arguments, model, data and trainer."""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentError, Namespace, set_dumper, set_parsing_settings
from jsonargparse.typing import register_type
from lightning.pytorch import LightningModule, seed_everything
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from guda_lightning import compat
from guda_lightning.cli.commands import Stage
from guda_lightning.cli.empty_values import refuse_empty_values
from guda_lightning.cli.naming import add_options, joined
from guda_lightning.cli.numbers import refuse_numbers
from guda_lightning.cli.parser import StageParser, dumped
from guda_lightning.cli.parser_reasons import refusal
from guda_lightning.cli.reasons import not_built
from guda_lightning.cli.slips import no_data, no_run_folder
from guda_lightning.data import GroupDataModule
from guda_lightning.data.hashes import data_record
from guda_lightning.diffusion.bounds import bounded
from guda_lightning.diffusion.training import rare_hparams, time_hparams
from guda_lightning.errors import ConfigError, check_range
from guda_lightning.spread.progress import PROGRESS
from guda_lightning.stages.base import StageTrainer, computing
from guda_lightning.storage.environment import environment
from guda_lightning.storage.history import Step, noted
from guda_lightning.storage.leftovers import tidy

# Devices are written by their names, such as that of StochasticWeightAveraging.
register_type(torch.device)

_PRECISION = "32-true"  # of a trainer that is told nothing
_FROM_FIT = ("model", "data", "seed_everything")  # sections that make the full model what it is


class StageCLI(LightningCLI):
    """The LightningCLI of one stage: its parser has the options of the stage beside those of all stages.

    Parses and checks all arguments when it is made; ``run`` builds what they name and runs the stage.

    Args:
        stage: The stage.
        arguments: Its command line.

    Raises:
        SystemExit: The arguments are refused, or ask for help only.
        ConfigError: There is no run folder, or a stage that needs groups got no data.
    """

    def __init__(self, stage: Stage, arguments: Sequence[str]) -> None:
        self.stage, self._function, self._arguments = stage, stage.load(), tuple(arguments)
        # Lightning reports its hardware and tips for every trainer, and a stage makes one for every group.
        for name in ("lightning.fabric", "lightning.pytorch"):
            logging.getLogger(name).setLevel(logging.WARNING)
        # Interpolation such as ${run} across several files and flags.
        set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
        set_dumper("omegaconf+", dumped)  # values take the way through YAML wherever there is a ${run}
        with compat.no_deprecations():
            # main(args) is meant for Python, too.
            warnings.filterwarnings("ignore", "LightningCLI's args parameter")
            super().__init__(
                trainer_class=StageTrainer,
                model_class=LightningModule,
                subclass_mode_model=True,
                save_config_callback=None,  # fit keeps the configuration in its record
                seed_everything_default=0,
                parser_class=StageParser,
                parser_kwargs={
                    "prog": f"guda {stage.name}",
                    "usage": f"guda {stage.name} -c FILE [-c FILE ...] [--OPTION VALUE ...]",
                    "description": f"{stage.summary}.",
                    "parser_mode": "omegaconf+",
                    "exit_on_error": False,  # it raises, and what it says becomes an error of ours
                },
                auto_configure_optimizers=False,
                args=joined(arguments),
                run=False,  # its subcommands would be methods of the trainer, and run at once
            )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse them.

        Raises:
            ConfigError: An option does not exist, lacks a value or has a wrong one.
        """
        try:
            super().parse_arguments(parser, args)
        except ArgumentError as error:
            raise refusal(str(error), f"guda {self.stage.name}", compat.option_names(parser)) from error
        refuse_empty_values(self._function, self.config)
        if not isinstance(self.config.seed_everything, bool):
            check_range(
                "seed_everything",
                self.config.seed_everything,
                ge=0,
                lt=2**32,
                expected="0 <= seed_everything < 2**32, or false for none",
                fix="pass --seed_everything with such a number",
            )
        refuse_numbers(self.config)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """One run folder for all stages, and the options of this one."""
        parser.add_argument(
            "--run", type=str | None, help="Run folder: everything is read and written there."
        )
        parser.link_arguments("run", "trainer.default_root_dir")
        parser.add_argument(
            "--pretrained",
            type=str | None,
            help="Folder or hub name of a diffusers pipeline, for ${pretrained} in a configuration.",
        )
        self._options = add_options(parser, self._function, {"trainer", *self.stage.filled})

    def before_instantiate_classes(self) -> None:
        """Refuse a stage that has nothing to work on."""
        if self.config.run is None:
            raise no_run_folder(f"guda {self.stage.name}")
        if self.stage.needs_data and not self.config.data:
            raise no_data(f"guda {self.stage.name}")
        if self.config.trainer.fast_dev_run and not self.stage.dry_run:
            raise ConfigError(
                f"guda {self.stage.name} has no dry run",
                found=f"trainer.fast_dev_run = {self.config.trainer.fast_dev_run}",
                expected="a stage that trains, and whose dry run keeps nothing: fit, unlearn, guide, "
                "retrain, ensemble",
                fix="leave out trainer.fast_dev_run here",
            )

    def instantiate_classes(self) -> None:
        """Nothing yet: ``run`` does, and before it the arguments of other stages may be checked."""

    def run(self) -> Any:
        """Build trainer, model and data, and run the stage; returns what the stage made.

        Raises:
            GudaError: One of them refuses its arguments, or the stage what it finds.
        """
        if self.config.seed_everything is not False:
            seed_everything(self.config.seed_everything, workers=True)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*does not have many workers")  # batches are cut from memory
            self._build()
            tidy(Path(self.trainer.default_root_dir))
            options = {name: self.config_init[name] for name in self._options}
            trainer: Any = self.trainer
            with noted(trainer.run_folder, self._begun(), self._told):
                return self._function(trainer, **options, **self._filled())

    def _build(self) -> None:
        # What Lightning tells modules as their hyper-parameters: it would write YAML and read it, slowly.
        self.config_dump = json.loads(self.parser.dump(self.config, format="json", skip_none=False))
        try:
            with bounded(), compat.no_deprecations():
                super().instantiate_classes()
        except Exception as error:
            raise not_built(error, f"guda {self.stage.name}") from None

    def _filled(self) -> dict[str, Any]:
        """The arguments of the stage that are no options."""
        values = {
            "model": lambda: self.model,
            "datamodule": lambda: self.datamodule,
            "build": lambda: partial(self.section, "model"),
            "config": self._made_from,
            "resolved": self._resolved,
        }
        return {name: values[name]() for name in self.stage.filled}

    def section(self, name: str) -> Any:
        """What one section of the configuration names, built by itself and anew: ``model`` or ``data``."""
        with bounded(), compat.no_deprecations():
            return self.parser.instantiate_classes(Namespace({name: self.config[name].clone()}))[name]

    def _begun(self) -> Step | None:
        """What RUN/history keeps; None of what keeps nothing, and of a task that another command started."""
        alone = self.trainer.is_global_zero and PROGRESS not in os.environ
        if not (alone and self.stage.noted) or self.config.trainer.fast_dev_run:
            return None
        return Step(self.stage.name, self.config.run, self._arguments, self.values())

    def _told(self, step: Step) -> Step | None:
        """What it keeps besides, which is known in the end; of several processes, the first one."""
        if not self.trainer.is_global_zero:
            return None
        data = self.datamodule if isinstance(self.datamodule, GroupDataModule) else None
        known = None if data is None else data_record(data)
        return replace(step, data=known, environment=environment(**computing(self.trainer)))

    def values(self) -> dict[str, Any]:
        """The whole configuration as JSON values.

        Dumped by the parser, which writes paths and enumerations as text. Infinities, which JSON lacks, stay
        the text that they are there, such as "-Infinity".
        """
        text = self.parser.dump(self.config, format="json", skip_none=False)
        values: dict[str, Any] = json.loads(text, parse_constant=str)
        return values

    def _resolved(self) -> str:
        """The configuration as YAML with all values, for processes that do the same elsewhere, if any do."""
        if self.config.spread is None:
            return ""
        config = self.config.clone()
        config.spread = None
        text: str = self.parser.dump(config, skip_none=False)
        return text

    def _made_from(self) -> dict[str, Any]:
        """What makes the full model, and the oracle, what it is."""
        trainer: Any = self.trainer
        config = self.values()
        made_from: dict[str, Any] = {key: config.get(key) for key in _FROM_FIT}
        for section, built in (("model", self.model), ("data", self.datamodule)):
            for name in getattr(built, "where_and_how", ()):
                ((made_from[section] or {}).get("init_args") or {}).pop(name, None)
        made_from["trainer"] = {key: config["trainer"][key] for key in trainer.makes_the_model}
        if made_from["trainer"]["precision"] is None and trainer.precision != _PRECISION:
            made_from["trainer"]["precision"] = trainer.precision  # by a plugin
        if config["trainer"]["sync_batchnorm"] and trainer.world_size > 1:
            made_from["trainer"]["sync_batchnorm"] = True
        made_from["trainer"] |= rare_hparams(trainer) | time_hparams(trainer)
        # What one step learns from: the batches of all processes together, however many those are.
        loaded = (made_from["data"] or {}).get("init_args") or {}
        if isinstance(loaded.get("batch_size"), int):
            loaded["batch_size"] *= trainer.world_size
        else:
            made_from["trainer"]["world_size"] = trainer.world_size
        return made_from
