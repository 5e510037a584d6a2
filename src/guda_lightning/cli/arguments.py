"""The parser of the commands that are no stages: what it refuses is an error like any other."""

from __future__ import annotations

import argparse
import re
from typing import Any, NoReturn

from guda_lightning import compat
from guda_lightning.cli.commands import Command
from guda_lightning.cli.slips import misspelt
from guda_lightning.errors import ConfigError, did_you_mean
from guda_lightning.storage.paths import refuse_nul

_ARGUMENT = re.compile(r"argument (?P<name>[^:]+): (?P<said>.*)", re.DOTALL)
_CHOICE = re.compile(r"invalid choice: '(?P<given>.*)' \(choose from (?P<known>.*)\)", re.DOTALL)


class Arguments(argparse.ArgumentParser):
    """An argparse parser of a command.

    Args:
        command: The command.
        more: What it does beyond its summary.
        epilog: What the help ends with.
    """

    def __init__(self, command: Command, more: str = "", epilog: str | None = None) -> None:
        self._command = command
        super().__init__(
            f"guda {command.name}",
            description=f"{command.summary}{more}.",
            epilog=epilog,
            allow_abbrev=False,
        )

    def add_config(self, help_: str) -> None:
        """Add ``-c FILE``, which may be given several times."""
        self.add_argument("-c", "--config", action="append", default=[], metavar="FILE", help=help_)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Parse them.

        Raises:
            ConfigError: One can be no path and no name, as no shell passes it.
        """
        for argument in args or ():
            refuse_nul(argument)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Refuse what argparse refuses.

        Raises:
            ConfigError: Always.
        """
        help_of = f"`{self.prog} --help` explains the options"
        usage = f"{self.prog} {self._command.example}"
        kind, _, given = message.partition(": ")
        if kind == "unrecognized arguments":
            name = given.split()[0].partition("=")[0]
            if name.startswith("-"):
                known = compat.option_names(self)
                raise misspelt(f"{self.prog} has no option {name}", given, name, known, help_of)
            raise ConfigError(f"{self.prog} has no use for {given}", found=given, expected=usage, fix=help_of)
        if kind == "the following arguments are required":
            raise ConfigError(f"{self.prog} lacks {given}", found=f"no {given}", expected=usage, fix=help_of)
        argument = _ARGUMENT.fullmatch(message)
        if argument is None:
            raise ConfigError(f"{self.prog} is refused", found=message, expected=usage, fix=help_of)
        problem = f"{argument['name']} of {self.prog} has a wrong value"
        choice = _CHOICE.fullmatch(argument["said"])
        if choice is None:
            raise ConfigError(problem, found=argument["said"], expected=usage, fix=help_of)
        known = [one.strip("' ") for one in choice["known"].split(",")]
        raise ConfigError(
            problem,
            found=choice["given"],
            expected=" or ".join(known),
            fix=did_you_mean(choice["given"], known, help_of),
        )
