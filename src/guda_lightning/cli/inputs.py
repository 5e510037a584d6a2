"""What a command line says, read without torch and without knowing which options there are."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guda_lightning.cli.yaml_files import read_config, refuse_value

# Options whose values are names of the user's, taken as they are written, whatever they begin with.
NAMING = ("groups", "without", "name")
_ALONE = re.compile(r"-h|--help|--print_config")  # flags that have no value of their own


@dataclass(frozen=True)
class Inputs:
    """The raw inputs of a stage.

    Attributes:
        stage: Its name.
        arguments: Its command line.
        files: Path to contents of its configuration files.
        values: Option or dotted key to each of its values as they are written, in that order; those of
            files are scalars of YAML, those of flags are text.
        keys: The dotted keys of the files.
        flags: Names of the flags, with their dashes, and their values; None where one has none.
        bare: What belongs to no flag.
    """

    stage: str
    arguments: tuple[str, ...]
    files: Mapping[Path, str]
    values: Mapping[str, Sequence[Any]]
    keys: Collection[str] = ()
    flags: tuple[tuple[str, str | None], ...] = ()
    bare: tuple[str, ...] = ()

    @classmethod
    def of(cls, stage: str, arguments: Sequence[str]) -> Inputs:
        """Read them; options that do not exist are left to who knows them.

        Raises:
            ConfigError: A file is no configuration, or a value is none of one.
        """
        files: dict[Path, str] = {}
        values: dict[str, list[Any]] = {}
        keys: dict[str, None] = {}
        flags, bare = list[tuple[str, str | None]](), list[str]()
        for name, value in _options(arguments):
            if not name:
                bare.append(str(value))
                continue
            flags.append((name, value))
            if value is None:
                continue
            if name not in ("-c", "--config"):
                refuse_value(name, value)
                values.setdefault(name.removeprefix("--"), []).append(value)
                continue
            path = Path(value)
            files[path], content = read_config(path)
            for key, scalar in _flat(content, ""):
                keys[key] = None
                if isinstance(scalar, str):
                    refuse_value(key, scalar)
                values.setdefault(key, []).append(scalar)
        return cls(stage, tuple(arguments), files, values, tuple(keys), tuple(flags), tuple(bare))

    def path(self, name: str) -> Path | None:
        """The path that an option names last; None: there is none, or another option decides it."""
        value = self.values.get(name, (None,))[-1]
        return (
            Path(value)
            if isinstance(value, str) and value not in ("", "null") and "${" not in value
            else None
        )

    def asks_for(self, option: str) -> bool:
        """Whether a flag that takes no value is given."""
        return any(argument.partition("=")[0] == option for argument in self.arguments)


def _options(arguments: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Names and values of options, with a value of their own or after ``=``; no name: no option."""
    left = list(arguments)
    while left:
        argument = left.pop(0)
        name, assigned, value = argument.partition("=")
        if not name.startswith("-"):
            yield "", argument
        elif assigned:
            yield name, value
        elif left and _takes(name, left[0]):
            yield name, left.pop(0)
        else:
            yield name, None


def _takes(flag: str, word: str) -> bool:
    """Whether the word behind a flag is its value."""
    named = flag.removeprefix("--") in NAMING
    return not _ALONE.fullmatch(flag) and (named or not word.startswith("--"))


def _flat(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of a YAML file; elements of lists have the key of their list."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for inner in value:
            yield from _flat(inner, key)
    else:
        yield key, value
