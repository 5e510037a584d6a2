"""Numbers of a configuration that nothing can be computed with, refused for what they are called."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from jsonargparse import Namespace

from guda_lightning.diffusion.bounds import COUNTS, refuse_counts
from guda_lightning.errors import ConfigError, check_range

_OURS = __name__.partition(".")[0]
_LARGEST = 2**63  # what a tensor, a table and a generator hold
# Of arguments of classes of guda; the least is with each class.
_MOST = {"batch_size": 10_000_000, "encode_batch_size": 10_000_000, "image_size": COUNTS["sample_size"][1]}


def refuse_numbers(config: Namespace) -> None:
    """Refuse what is no number, does not fit into 64 bits, or is no seed, rate, size or count of layers.

    What a number of another library means is not known beyond that.

    Args:
        config: All options, with every reference resolved.

    Raises:
        ConfigError: There is such a number.
    """
    for path, value, owner in _numbers(config, "", _OURS):
        name, fix = path.rpartition(".")[2], f"correct {path}"
        ours = owner == _OURS
        if isinstance(value, float):
            _refuse_float(path, value, ours or owner == "torch")
        else:
            check_range(path, value, ge=-_LARGEST, lt=_LARGEST, expected="-2**63 <= number < 2**63", fix=fix)
        if ours and (name == "seed" or name.endswith("_seed")):
            check_range(path, value, ge=0, lt=_LARGEST, expected=f"0 <= {name} < 2**63", fix=fix)
        elif name == "lr" and ".optimizer." in f".{path}":
            check_range(path, value, gt=0, fix=fix)
        elif ours and name in _MOST:
            check_range(path, value, le=_MOST[name], fix=fix)
        elif owner == "diffusers":
            refuse_counts({name: value}, path.removesuffix(name))


def _refuse_float(path: str, value: float, finite: bool) -> None:
    if math.isnan(value) or (finite and math.isinf(value)):
        raise ConfigError(
            f"{path} is no finite number" if finite else f"{path} is no number",
            found=value,
            expected="a number that something can be computed with",
            fix=f"correct {path}",
        )


def _numbers(value: Any, path: str, owner: str) -> Iterator[tuple[str, int | float, str]]:
    """All numbers in a configuration: dotted key, value, and package of the class that takes it."""
    if isinstance(value, Namespace | Mapping):
        values = vars(value) if isinstance(value, Namespace) else value
        named = values.get("class_path")
        owner = str(named).partition(".")[0] if named else "lightning" if path == "trainer" else owner
        for name, inner in values.items():
            yield from _numbers(inner, f"{path}.{name}" if path else str(name), owner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _numbers(inner, path, owner)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, value, owner
