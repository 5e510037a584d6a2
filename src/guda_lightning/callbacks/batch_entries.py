"""What stands where in somebody else's batch: tensors in sequences, mappings and objects, nested at will."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from PIL.Image import Image as Picture
from torch import Tensor

Key = str | int
_MOST = 12  # entries that a message lists
_DEEPEST = 4  # dots in the path of one: objects may hold each other
_PLAIN = (int, float, str, bytes, os.PathLike, Picture, type(None))


def entry(batch: Any, key: Key) -> Any:
    """What a batch holds at a key, a position, an attribute, or a dotted path of these, such as ``0.image``.

    A key that itself holds dots, such as ``image.png``, counts before a path. Inside of None, which a loader
    that is used up gives in place of a batch, there is None.

    Raises:
        LookupError: It holds nothing there.
    """
    if batch is None:
        return None
    children, name = _children(batch), str(key)
    if name in children:
        return children[name]
    if isinstance(batch, Sequence) and name.removeprefix("-").isdecimal():
        return batch[int(name)]
    for dot in reversed([place for place, letter in enumerate(name) if letter == "."]):
        try:
            return entry(entry(batch, name[:dot]), name[dot + 1 :])
        except LookupError:
            continue
    raise LookupError(key)


def entries(batch: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Whatever a batch holds that holds nothing itself, by the paths that ``entry`` finds them at."""
    children = _children(batch)
    if not children or path.count(".") > _DEEPEST:
        yield path, batch
        return
    for name, value in children.items():
        yield from entries(value, f"{path}.{name}" if path else name)


def described(batch: Any) -> str:
    """All entries in one line, with types and shapes: ``a list of 0 float32 [4, 1, 8, 8], 1 int64 [4]``."""
    if not _children(batch):
        return f"a batch: {_kind(batch)}"
    listed = [f"{path} {_kind(value)}" for path, value in entries(batch)]
    more = f" and {len(listed) - _MOST} more" if len(listed) > _MOST else ""
    return f"a {type(batch).__name__} of {', '.join(listed[:_MOST])}{more}"


def as_argument(path: str) -> str:
    """A path as it is written in Python: ``0``, ``'image'`` or ``'0.image'``."""
    return path if path.isdecimal() else repr(path)


def as_tensor(value: Any) -> Tensor | None:
    """A value that is a tensor, an array, or a list of numbers or of equally large tensors; None: no such."""
    if isinstance(value, Tensor):
        dense = value.layout == torch.strided and not (value.is_nested or value.is_quantized or value.is_meta)
        return value.detach().as_subclass(Tensor) if dense else None  # MONAI's carry files along
    try:
        if isinstance(value, np.ndarray):
            return torch.from_numpy(np.array(value))
        if isinstance(value, list | tuple) and value:
            parts = [as_tensor(part) for part in value if isinstance(part, Tensor | np.ndarray)]
            tensors = [part for part in parts if part is not None]
            if not parts:
                return torch.tensor(value)
            return torch.stack(tensors) if len(tensors) == len(value) else None
    except Exception:  # texts, other sizes; of objects torch asks for whatever it can think of
        return None
    return None


def names(batch: Any, key: Key, count: int) -> list[str | None]:
    """What a batch calls its ``count`` samples, whatever type its names have; None for one without a name."""
    try:
        found = entry(batch, key)
    except LookupError:
        return [None] * count
    if isinstance(found, Tensor | np.ndarray):
        flat = as_tensor(found) if isinstance(found, Tensor) else found
        found = None if flat is None else flat.reshape(-1).tolist()
    if not isinstance(found, list | tuple) or len(found) != count:  # one number for the whole batch
        return [None] * count
    return [_name(value) for value in found]


def _name(value: Any) -> str | None:
    if isinstance(value, Tensor | np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    elif isinstance(value, os.PathLike):
        value = os.fspath(value).replace(os.sep, "/")
    elif isinstance(value, list | tuple):
        value = "/".join(str(_name(part)) for part in value)
    return None if value is None else str(value) or None


def _children(batch: Any) -> dict[str, Any]:
    """What a batch holds, by name or position; nothing for tensors, texts, numbers and lists of these."""
    if isinstance(batch, Tensor | np.ndarray | Picture | str | bytes | type(None)):
        return {}
    if callable(getattr(batch, "keys", None)) and hasattr(batch, "__getitem__"):
        return {str(key): batch[key] for key in batch.keys()}  # noqa: SIM118  (a TensorDict iterates rows)
    if isinstance(batch, Sequence):
        held = dict(zip(getattr(batch, "_fields", map(str, range(len(batch)))), batch, strict=True))
        return {} if all(isinstance(value, _PLAIN) for value in batch) else held
    named = [field.name for field in fields(batch)] if is_dataclass(batch) else getattr(batch, "__dict__", ())
    return {name: getattr(batch, name) for name in named if name[:1] != "_"}


def _kind(value: Any) -> str:
    if isinstance(value, Tensor) and value.is_nested:
        return "nested tensor"
    if isinstance(value, Tensor | np.ndarray):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        kinds = " or ".join(sorted({type(part).__name__ for part in value}))
        return f"{type(value).__name__} of {len(value)} {kinds}".rstrip()
    return type(value).__name__
