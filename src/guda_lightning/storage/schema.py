"""Checks a JSON value against a JSON schema, of which it knows the words that the manifest's schema uses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from importlib import resources
from typing import Any

MANIFEST = "manifest.schema.json"
_NUMBER = (int, float)
_TYPES: Mapping[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": lambda value: isinstance(value, _NUMBER) and not isinstance(value, bool),
    "integer": lambda value: isinstance(value, _NUMBER) and not isinstance(value, bool) and value % 1 == 0,
}


def schema_of(name: str = MANIFEST) -> dict[str, Any]:
    """A JSON schema that comes along."""
    text = resources.files("guda_lightning.storage").joinpath(name).read_text("utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def violations(value: Any, schema: Mapping[str, Any]) -> list[str]:
    """Where a value is not what a schema says, one line each; empty: it fits."""
    return list(_violations(value, schema, schema, ""))


def _violations(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any], where: str) -> Iterator[str]:
    if not schema:
        return  # anything, however deep
    if "$ref" in schema:
        yield from _violations(value, root["$defs"][schema["$ref"].rpartition("/")[2]], root, where)
    types = schema.get("type")
    names = [types] if isinstance(types, str) else types or []
    if names and not any(_TYPES[name](value) for name in names):
        yield f"{where or 'the document'} is {_kind(value)} instead of {' or '.join(names)}"
        return
    if "const" in schema and value != schema["const"]:
        yield f"{where} is not {schema['const']!r}"
    if "enum" in schema and value not in schema["enum"]:
        yield f"{where} is none of {', '.join(map(str, schema['enum']))}"
    if isinstance(value, str) and "pattern" in schema and not re.search(schema["pattern"], value):
        yield f"{where} does not look like {schema['pattern']}"
    if _TYPES["number"](value) and value < schema.get("minimum", value):
        yield f"{where} is below {schema['minimum']}"
    if isinstance(value, list):
        for position, one in enumerate(value):
            yield from _violations(one, schema.get("items", {}), root, f"{where}[{position}]")
    if isinstance(value, dict):
        yield from _of_object(value, schema, root, where)


def _of_object(
    value: Mapping[str, Any], schema: Mapping[str, Any], root: Mapping[str, Any], where: str
) -> Iterator[str]:
    known, others = schema.get("properties", {}), schema.get("additionalProperties", {})
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{where or 'the document'} has no {name}"
    for name, one in value.items():
        inner = f"{where}.{name}" if where else name
        if name in known:
            yield from _violations(one, known[name], root, inner)
        elif others is False:
            yield f"{inner} is not known"
        else:
            yield from _violations(one, others, root, inner)


def _kind(value: Any) -> str:
    return next(name for name, holds in _TYPES.items() if holds(value))
