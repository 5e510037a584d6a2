"""What a command line says, read without torch and without knowing which options there are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guda_lightning.cli.yaml_files import read_config


@dataclass(frozen=True)
class Inputs:
    """The raw inputs of a stage.

    Attributes:
        stage: Its name.
        arguments: Its command line.
        files: Path to contents of its configuration files.
        values: Option or dotted key to each of its values as they are written, in that order; those of
            files are scalars of YAML, those of flags are text.
    """

    stage: str
    arguments: tuple[str, ...]
    files: Mapping[Path, str]
    values: Mapping[str, Sequence[Any]]

    @classmethod
    def of(cls, stage: str, arguments: Sequence[str]) -> Inputs:
        """Read them; options that do not exist are left for the parser to refuse.

        Raises:
            ConfigError: A file is no configuration.
        """
        files: dict[Path, str] = {}
        values: dict[str, list[Any]] = {}
        for name, value in _options(arguments):
            if name not in ("-c", "--config"):
                values.setdefault(name.removeprefix("--"), []).append(value)
                continue
            path = Path(value)
            files[path], content = read_config(path)
            for key, scalar in _flat(content, ""):
                values.setdefault(key, []).append(scalar)
        return cls(stage, tuple(arguments), files, values)

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


def _options(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Names and values of options, with a value of their own or after ``=``."""
    for position, argument in enumerate(arguments):
        name, assigned, value = argument.partition("=")
        if not name.startswith("-"):
            continue
        if assigned:
            yield name, value
        elif position + 1 < len(arguments) and not arguments[position + 1].startswith("--"):
            yield name, arguments[position + 1]


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
