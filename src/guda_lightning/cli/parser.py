"""Help that begins with a stage's own options, where LightningCLI begins with 40 of the Trainer."""

from __future__ import annotations

import argparse
import inspect
import re
import textwrap
from collections.abc import Sequence
from enum import Enum
from typing import Any

import yaml
from lightning.pytorch.cli import LightningArgumentParser

from guda_lightning import compat
from guda_lightning.stages.base import StageTrainer

_WIDTH = 79
_OURS = {f"trainer.{name}" for name in inspect.signature(StageTrainer).parameters}


class _Dumper(yaml.SafeDumper):
    """Puts texts into quotes that are numbers in YAML 1.2, as 1e5 and one in a hundred hashes are."""


_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)
# Defaults of Lightning that are members of an enumeration, such as the interval of a Timer, by their values.
_Dumper.add_multi_representer(Enum, lambda dumper, member: dumper.represent_data(member.value))


def dumped(values: Any) -> str:
    """Values as YAML that every reader of YAML reads alike."""
    text: str = yaml.dump(values, Dumper=_Dumper, allow_unicode=True, sort_keys=False)
    return text


class StageParser(LightningArgumentParser):
    """Lists options in the order that a reader wants them, and those of Lightning's Trainer by name alone."""

    def dump(self, *args: Any, skip_validation: bool = True, **kwargs: Any) -> str:
        """The values as text, unchecked: they were parsed, and a check takes most of the time."""
        with compat.no_deprecations():
            text: str = super().dump(*args, skip_validation=skip_validation, **kwargs)
        return text

    def format_help(self, formatter: argparse.HelpFormatter | None = None) -> str:
        """The help text."""
        groups = {name: compat.actions(group) for name, group in (self.groups or {}).items()}
        trainer, model, data = (groups.pop(name, []) for name in ("trainer", "model", "data"))
        sections = {
            "options of this stage": [action for group in groups.values() for action in group],
            "options of every stage": compat.ungrouped(self),
            "model": model,
            "data": data,
            "model that is no DiffusionModule": [action for action in trainer if action.dest in _OURS],
        }
        with compat.help_sections(self, sections):
            text = super().format_help() if formatter is None else super().format_help(formatter)
        return f"{text}\n{_by_name([action for action in trainer if action.dest not in _OURS])}"


def _by_name(trainer: Sequence[argparse.Action]) -> str:
    """The Trainer's options without what they hold (``--trainer.logger.save_dir``) and without help."""
    names = [f"--{action.dest}" for action in trainer if action.dest.count(".") == 1]
    title = "arguments of lightning.Trainer, which Lightning's documentation explains:"
    return f"{title}\n{textwrap.fill(' '.join(names), _WIDTH, initial_indent='  ', subsequent_indent='  ')}\n"
