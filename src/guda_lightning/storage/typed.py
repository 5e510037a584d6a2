"""Whether values of JSON are of the types that a dataclass says."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from guda_lightning.errors import StoreError


def refuse_misfits(kind: Any, values: Mapping[str, Any], path: str | Path, fix: str) -> None:
    """Refuse a record that lacks a field, or has one of another type.

    Args:
        kind: The dataclass that the record is to be.
        values: Its entries, as JSON has them.
        path: Where they are from.
        fix: What mends it.

    Raises:
        StoreError: An entry is missing, or is of another type.
    """
    hints = get_type_hints(kind)
    for one in fields(kind):
        needed = one.default is MISSING and one.default_factory is MISSING
        if one.name in values and not fits(values[one.name], hints[one.name]):
            found = f"{one.name} = {values[one.name]!r}"[:100]
        elif one.name not in values and needed:
            found = f"no {one.name}"
        else:
            continue
        written = str(one.type).replace("typing.", "")
        raise StoreError(
            f"{path} is no whole record", found=found, expected=f"{one.name}: {written}", fix=fix
        )


def fits(value: object, hint: Any) -> bool:
    """Whether a value of JSON is of a type; where that is a tuple, JSON has a list.

    Args:
        value: The value.
        hint: A type of values that JSON has, of those, or Any.
    """
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(fits(value, one) for one in inner)
    if origin is Literal:
        return value in inner
    if origin in (dict, Mapping):
        return isinstance(value, dict) and all(
            fits(key, inner[0]) and fits(one, inner[1]) for key, one in value.items()
        )
    if origin in (list, tuple, Sequence):
        return isinstance(value, list | tuple) and _elements_fit(value, origin, inner)
    if hint is None or hint is type(None):
        return value is None
    if isinstance(value, bool) or hint is bool:
        return isinstance(value, bool) and hint is bool
    return isinstance(value, int | float if hint is float else hint)


def _elements_fit(value: Sequence[object], origin: Any, inner: tuple[Any, ...]) -> bool:
    if origin is tuple and Ellipsis not in inner:
        return len(value) == len(inner) and all(map(fits, value, inner))
    return all(fits(one, inner[0]) for one in value)
