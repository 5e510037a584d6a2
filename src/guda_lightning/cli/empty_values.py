"""Options that a configuration leaves empty, as in ``num:``, and that need a value."""

from __future__ import annotations

import dataclasses
import inspect
import pydoc
from collections.abc import Callable, Iterator, Mapping
from types import NoneType
from typing import Any, get_args, get_type_hints

from jsonargparse import Namespace

from guda_lightning.errors import ConfigError

_PACKAGE = __name__.partition(".")[0]


def refuse_empty_values(function: Callable[..., Any], config: Namespace) -> None:
    """Refuse options without a value, which jsonargparse lets through whatever their type is.

    Of the arguments of others' classes nothing is known: many take None where their type does not say so.

    Args:
        function: Whose arguments the options are.
        config: The options, and whatever is built from the configuration besides.

    Raises:
        ConfigError: One that cannot be None is.
    """
    for name, default in (*_of(function, vars(config)), *_below(config)):
        raise ConfigError(
            f"{name} has no value",
            found="null, which an empty place in YAML means",
            expected=f"a value, such as {default!r}, its default",
            fix=f"write one behind `{name.rpartition('.')[2]}:`, or remove the line",
        )


def _of(kind: Callable[..., Any], values: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """The empty values among the arguments of a function, class or dataclass, with their defaults."""
    hints = _hints(kind.__init__ if inspect.isclass(kind) else kind)
    parameters = inspect.signature(kind).parameters
    for name in (name for name in parameters if name in values):
        hint, default, value = hints.get(name, Any), parameters[name].default, values[name]
        if dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(value, dict | Namespace):
            yield from _of(hint, _mapping(value), f"{path}{name}.")
        elif value is None and default not in (None, inspect.Parameter.empty) and not _takes_none(hint):
            yield f"{path}{name}", default


def _below(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The empty values among the arguments of this package's classes, anywhere in a configuration."""
    if isinstance(value, list):
        for number, one in enumerate(value):
            yield from _below(one, f"{path}{number}.")
    elif isinstance(value, dict | Namespace):
        values = _mapping(value)
        kind = pydoc.locate(str(values.get("class_path"))) if "class_path" in values else None
        if inspect.isclass(kind) and kind.__module__.partition(".")[0] == _PACKAGE:
            yield from _of(kind, _mapping(values.get("init_args") or {}), f"{path}init_args.")
        for name, one in values.items():
            yield from _below(one, f"{path}{name}.")


def _mapping(value: Any) -> Mapping[str, Any]:
    return vars(value) if isinstance(value, Namespace) else value


def _hints(function: Callable[..., Any]) -> Mapping[str, Any]:
    """The types of its arguments; as they are written where some are imported for type checkers alone."""
    try:
        return get_type_hints(function)
    except NameError:
        return function.__annotations__


def _takes_none(hint: Any) -> bool:
    if isinstance(hint, str):
        return "None" in hint or hint in ("Any", "object")
    return hint is Any or hint is object or NoneType in get_args(hint)
