"""Whether values of JSON are of the types that a dataclass says."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from functools import cache
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
    hints = _hints(kind)
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
    return _check(hint)(value)


_hints = cache(get_type_hints)


@cache
def _check(hint: Any) -> Callable[[object], bool]:
    """What ``fits`` asks of a value, made once for a type: stores hold thousands of records."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return lambda value: True
    if origin is Literal:
        return lambda value: value in inner
    if hint is None or hint is type(None):
        return lambda value: value is None
    if hint is bool:
        return lambda value: isinstance(value, bool)
    if origin is None:
        kind = int | float if hint is float else hint
        return lambda value: isinstance(value, kind) and not isinstance(value, bool)
    checks = [_check(one) for one in inner if one is not Ellipsis]
    if origin in (Union, types.UnionType):
        return lambda value: any(check(value) for check in checks)
    if origin in (dict, Mapping):
        key_fits, value_fits = checks
        return lambda value: (
            isinstance(value, dict) and all(key_fits(key) and value_fits(one) for key, one in value.items())
        )
    if origin is tuple and Ellipsis not in inner:
        return lambda value: (
            isinstance(value, list | tuple)
            and (
                len(value) == len(checks)
                and all(check(one) for check, one in zip(checks, value, strict=True))
            )
        )
    return lambda value: isinstance(value, list | tuple) and all(map(checks[0], value))
