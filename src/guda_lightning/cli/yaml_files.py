"""Configuration files as YAML, refused by file and line where they are none; nothing heavy is imported."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import yaml

from guda_lightning.errors import ConfigError
from guda_lightning.storage.files import read_regular

_SECTIONS = ("trainer", "model", "data")  # mappings, or the name of a file that holds one
_PARTS = (*_SECTIONS, "callbacks", "logger", "objective", "attributor", "optimizer", "scoring", "spread")
_MOST_BYTES, _MOST_VALUES, _DEEPEST = 1_000_000, 100_000, 50  # of a configuration
_MANY = (
    f"more than {_MOST_VALUES} values, each `*` counted as what it stands for, or more than {_DEEPEST} levels"
)
_FEW = f"at most {_MOST_VALUES} values, {_DEEPEST} levels deep"
# What PyYAML raises, also where a tag such as !!bool stands before what it does not fit.
_BROKEN = (yaml.YAMLError, ValueError, RecursionError, AttributeError, LookupError, TypeError)
_MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"\x00": "no text"}


def read_config(path: Path) -> tuple[str, dict[str, Any]]:
    """The text of a configuration file, and what it says.

    Args:
        path: The file.

    Raises:
        ConfigError: It is no text, no YAML, names something twice, or is no mapping of sections.
    """
    text = _text(path)
    try:
        value = yaml.load(text, _StrictLoader)
        large = _is_large(value)
    except _BROKEN as error:
        raise _no_yaml(path, text, error) from error
    if large:
        raise _refused(path, _MANY, _FEW)
    if not isinstance(value, dict):
        found = "an empty file" if value is None else f"a {_kind(value)}"
        raise _refused(path, found, "sections such as `trainer:` and `model:`")
    for name in _SECTIONS:
        section = value.get(name, {})
        empty = name == "trainer" and (section is None or _names_no_file(path, section))
        if empty or not isinstance(section, dict | str | None):
            found = f"{name}: {'nothing' if section is None else f'a {_kind(section)}'}"
            raise _refused(path, found, f"options below `{name}:`, each on a line of its own, further right")
    bare = next(_without_arguments(value), None)
    if bare is not None:
        raise _refused(path, f"{bare}: nothing", "arguments below `init_args:`, or no such line")
    return text, value


def refuse_value(option: str, value: str) -> None:
    """Refuse the value of an option that no YAML can hold, or that is larger than a configuration.

    Args:
        option: Its name.
        value: As it is written: a text, YAML, or the name of a file.

    Raises:
        ConfigError: It is such a value.
    """
    if any("\ud800" <= character <= "\udfff" for character in value):  # what Python makes of other bytes
        raise ConfigError(
            f"the value of {option} is no UTF-8",
            found=ascii(value),
            expected="a text, or a file or folder whose name is one",
            fix=f"correct {option}, or rename what it names; in a C locale, set PYTHONUTF8=1",
        )
    try:
        text = _text(Path(value)) if _names_a_part(option, value) else value
        large = text.lstrip()[:1] in ("[", "{", "&") and _is_large(yaml.load(text, yaml.SafeLoader))
    except RecursionError:
        large = True
    except _BROKEN:
        return  # no YAML: what takes the value says what it should be
    if large:
        raise ConfigError(
            f"the value of {option} is too large", found=_MANY, expected=_FEW, fix=f"correct {option}"
        )


def _names_a_part(option: str, value: str) -> bool:
    """Whether a parser reads a part of the configuration from a file; others hold data, of any size."""
    return option.lstrip("-").rpartition(".")[2] in _PARTS and os.path.isfile(value)


def _is_large(value: Any) -> bool:
    """Whether a value of YAML holds more than any configuration.

    What ``&`` names once and ``*`` repeats counts each time: ten lines can stand for billions of values.

    Raises:
        RecursionError: It is nested too deeply, or within itself.
    """
    sizes: dict[int, int] = {}

    def size(part: Any, depth: int) -> int:
        if depth > _DEEPEST:
            raise RecursionError
        if not isinstance(part, dict | list | tuple | set):
            return 1
        if id(part) not in sizes:
            inner = part.values() if isinstance(part, dict) else part
            sizes[id(part)] = 1 + sum(size(one, depth + 1) for one in inner)
        return sizes[id(part)]

    return size(value, 0) > _MOST_VALUES


def _names_no_file(path: Path, section: Any) -> bool:
    """Whether it is a text, and neither a reference nor a file here or beside the configuration."""
    named = isinstance(section, str) and "${" not in section
    return named and not any((folder / section).is_file() for folder in (Path(), path.parent))


def _without_arguments(value: Any, key: str = "") -> Iterator[str]:
    """Keys of ``init_args`` with nothing below them, as where all of it is commented out."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in parts:
        below = f"{key}.{name}" if key else str(name)
        if name == "init_args" and part is None:
            yield below
        yield from _without_arguments(part, below)


class _StrictLoader(yaml.SafeLoader):
    """Refuses keys that are there twice, of which YAML silently keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[Any, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    problem = f"{key.value} stands in lines {seen[key.value]} and {line}"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                seen[key.value] = line
        return super().construct_mapping(node, deep)


def _text(path: Path) -> str:
    try:
        content = read_regular(path, _MOST_BYTES + 1)
    except OSError as error:
        raise _refused(path, str(error.strerror), "a file that can be read") from error
    if len(content) > _MOST_BYTES:
        raise _refused(path, f"more than {_MOST_BYTES} bytes", "a configuration")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        kind = next((kind for mark, kind in _MARKS.items() if content.startswith(mark)), "no UTF-8")
        byte = f"byte {error.start} is {content[error.start]:#04x}"
        raise _refused(path, f"{kind}: {byte}", "UTF-8 text") from error


def _no_yaml(path: Path, text: str, error: Exception) -> ConfigError:
    if isinstance(error, RecursionError):
        return _refused(path, "values nested too deeply, or within themselves", "a configuration")
    if isinstance(error, AttributeError | LookupError | TypeError):
        return _refused(path, "a tag, such as !!bool, before what it does not fit", "YAML")
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or " ".join(str(error).split())
    if mark is None:
        return _refused(path, problem, "YAML")
    line = text.splitlines()[mark.line] if mark.line < len(text.splitlines()) else ""
    if "\t" in line[: mark.column + 1]:
        return _refused(path, f"line {mark.line + 1}: a tab", "blanks: YAML indents by them alone")
    shown = f": {line.strip()}" if line.strip() else ""
    return _refused(path, f"line {mark.line + 1}, {problem}{shown}", "YAML that names everything once")


def _refused(path: Path, found: str, expected: str) -> ConfigError:
    return ConfigError(
        f"the configuration {path} cannot be read",
        found=found,
        expected=expected,
        fix="correct the file; `guda configs` lists examples",
    )


def _kind(value: object) -> str:
    names = {list: "list", str: "text", bool: "truth value", int: "number", float: "number"}
    return names.get(type(value), type(value).__name__)
