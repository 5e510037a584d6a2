"""Options of a stage; those that are names of the user's are taken as they are written."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from typing import Any

from docstring_parser import parse_from_object
from lightning.pytorch.cli import LightningArgumentParser

from guda_lightning import compat
from guda_lightning.cli.inputs import NAMING


def add_options(
    parser: LightningArgumentParser, function: Callable[..., Any], skip: Collection[str]
) -> list[str]:
    """Give a parser the arguments of a stage as options, and return their names.

    Args:
        parser: The parser.
        function: The stage; its docstring is the help.
        skip: Arguments that are no options.
    """
    described = {one.arg_name: one.description for one in parse_from_object(function).params}
    naming = [name for name in _TYPES if name in described]
    options: list[str] = parser.add_function_arguments(function, skip={*skip, *naming})
    if naming:
        group, order = (parser.groups or {})[function.__name__], list(described)
        for name in naming:
            group.add_argument(f"--{name}", type=_TYPES[name], metavar=name.upper(), help=described[name])
        compat.actions(group).sort(key=lambda action: order.index(action.dest.partition(".")[0]))
    return [*options, *naming]


def joined(arguments: Sequence[str]) -> list[str]:
    """The arguments, with names as in ``--groups=-x``: no option begins there, and no reference.

    In a configuration ``${x}`` refers to another key; on the command line a name is a name.
    """
    flags, found = [f"--{name}" for name in NAMING], list[str]()
    for argument in arguments:
        if found and found[-1] in flags:
            found[-1] += f"={argument}"
        else:
            found.append(argument)
    return [re.sub(r"(?<!\\)\$\{", r"\\${", one) if one.partition("=")[0] in flags else one for one in found]


class _Names:
    """Names of groups, which `stages.choices.chosen_groups` reads."""

    def __call__(self, value: object) -> object:
        if isinstance(value, dict):
            raise ValueError(f"expected {self}")
        return value

    def __repr__(self) -> str:
        return "a text or a list of texts"  # in help


class _Name:
    """One name."""

    def __call__(self, value: object) -> str:
        if isinstance(value, dict | list):
            raise ValueError(f"expected {self}")
        return str(value)

    def __repr__(self) -> str:
        return "a text"


# By type, a parser would take ``null`` for nothing and 1e5 for a number.
_TYPES = dict(zip(NAMING, (_Names(), _Names(), _Name()), strict=True))
