"""How far one file lies from another that was made the same way, in the unit in which its kind may differ."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from guda_lightning.scores import ScoreTable
from guda_lightning.storage.history import moved

Weights = Mapping[str, Tensor]

_HASH = re.compile(r"[0-9a-f]{12,64}")
# What is different whenever something is made.
_OF_THE_MAKING = ("seconds", "core_seconds", "memory", "gpu_memory", "versions")
_SCORES = {"query", "group", "score", "stderr", "method", "weighting", "seed"}
_KEY = ["method", "weighting", "seed", "query", "group"]  # of a row of scores
_NAMES = ("query", "queries", "group", "groups", "without")  # they may look like hashes, as those of users do
_ROUNDING = 1e-12  # of numbers in records


@dataclass(frozen=True)
class Likeness:
    """What was measured.

    Attributes:
        distance: In its unit; infinity where the two are not alike at all.
        unit: What the distance is a share of.
        why: What is different, where that is no number.
    """

    distance: float
    unit: str
    why: str = ""


def of_weights(before: Path, after: Path, start: Weights | None) -> Likeness:
    """The largest difference of two weights, in units of the largest that training moved one by.

    Args:
        before: A safetensors file.
        after: Another one.
        start: The weights that the training of both began with; None, or other ones: unknown, and differences
            are in units of the largest weight of the same tensor.
    """
    one, other = load_file(before), load_file(after)
    shapes = [{name: (part.shape, part.dtype) for name, part in each.items()} for each in (one, other)]
    if shapes[0] != shapes[1]:
        return Likeness(math.inf, "", "tensors of other names, shapes or types")
    moved_by = 0.0
    if start is not None and {name: part.shape for name, part in start.items()} == {
        name: part.shape for name, part in one.items()
    }:
        moved_by = _largest(one, start)
    if 0 < moved_by < math.inf:
        return Likeness(_largest(one, other) / moved_by, "the largest change of a weight by training")
    shares = [_share(part, other[name]) for name, part in one.items() if part.numel()]
    return Likeness(max(shares, default=0.0), "the largest weight of its tensor")


def of_pictures(before: Path, after: Path) -> Likeness:
    """The largest difference of two pixels, in units of their range."""
    one, other = map(_pixels, (before, after))
    unit = "the range of a pixel"
    if one.shape != other.shape:
        return Likeness(math.inf, unit, "a picture of another size")
    return Likeness(float(np.abs(one - other).max(initial=0.0)) / 255, unit)


def of_tables(before: Path, after: Path) -> Likeness:
    """The largest difference of two numbers of Parquet files.

    Scores are compared in units of their standard errors, or of the largest score of their method and
    weighting where there are none; other columns of numbers in units of their largest number.
    """
    if set(pq.read_schema(before).names) >= _SCORES:
        return _of_scores(ScoreTable.load(before), ScoreTable.load(after))
    one, other = (pq.read_table(path).to_pylist() for path in (before, after))
    return _of_values(one, other, _largest_numbers(one))


def of_records(before: Path, after: Path, old: str, new: str) -> Likeness:
    """The largest difference of two numbers of JSON files, in units of the larger one.

    Hashes and what it cost are not compared: what the hashes are of is, by itself.

    Args:
        before: A file with a JSON value, or one a line.
        after: Another one.
        old: The run folder that the first one lies in.
        new: That of the other.
    """
    one, other = (_json(path) for path in (before, after))
    return _of_values(moved(one, old, new), other, {})


def _of_scores(one: ScoreTable, other: ScoreTable) -> Likeness:
    unit = "a standard error"
    before, after = (table.to_pandas().set_index(_KEY).sort_index() for table in (one, other))
    if not before.index.equals(after.index):
        return Likeness(math.inf, unit, "scores of other queries, groups, methods or seeds")
    grades = [{group: one.grade for group, one in table.verdicts.items()} for table in (one, other)]
    if grades[0] != grades[1]:
        changed = [group for group in grades[0] if grades[0][group] != grades[1].get(group)]
        return Likeness(math.inf, unit, f"another verdict on {', '.join(changed) or 'groups'}")
    record = _of_values(one.record.to_json(), other.record.to_json(), {})
    if math.isinf(record.distance):
        return Likeness(math.inf, unit, f"made otherwise: {record.why}")
    apart = np.maximum(*((before[name] - after[name]).abs().to_numpy() for name in ("score", "stderr")))
    largest = before["score"].abs().groupby(level=_KEY[:2]).transform("max")
    scale = before["stderr"].where(before["stderr"] > 0, largest).to_numpy()
    with np.errstate(divide="ignore"):  # scores of nothing but zero are apart without bound
        shares = apart[apart > 0] / scale[apart > 0]
    return Likeness(float(shares.max(initial=0.0)), unit)


def _of_values(one: Any, other: Any, scales: Mapping[str, float], key: str = "") -> Likeness:
    """The largest difference of two numbers of JSON values; infinity where anything else differs."""
    unit, inner = "the number itself", key.rpartition(".")[2]
    if inner in _OF_THE_MAKING:
        return Likeness(0.0, unit)
    if isinstance(one, Mapping) and isinstance(other, Mapping) and one.keys() == other.keys():
        parts = [_of_values(one[name], other[name], scales, f"{key}.{name}".lstrip(".")) for name in one]
        return max(parts, key=lambda part: part.distance, default=Likeness(0.0, unit))
    if _is_list(one) and _is_list(other) and len(one) == len(other):
        parts = [_of_values(*pair, scales, key) for pair in zip(one, other, strict=True)]
        return max(parts, key=lambda part: part.distance, default=Likeness(0.0, unit))
    if isinstance(one, str) and isinstance(other, str) and inner not in _NAMES:
        same = _HASH.sub("#", one) == _HASH.sub("#", other)
    elif isinstance(one, float) and isinstance(other, int | float):
        same = one == other or (math.isnan(one) and math.isnan(other))
        scale = scales.get(inner, max(abs(one), abs(other)))
        if not same and math.isfinite(one) and math.isfinite(other):
            return Likeness(abs(one - other) / (scale or 1.0), unit, key)
    else:
        same = one == other
    return Likeness(0.0, unit) if same else Likeness(math.inf, unit, f"{key or 'what it holds'}")


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _largest(one: Weights, other: Weights) -> float:
    return max((_apart(part, other[name]) for name, part in one.items() if part.numel()), default=0.0)


def _share(one: Tensor, other: Tensor) -> float:
    """The largest difference of two tensors, of their largest number."""
    apart, scale = _apart(one, other), float(one.double().abs().max())
    if not apart:
        return 0.0
    return apart / scale if 0 < scale < math.inf else math.inf  # nor is it one where it is no number


def _apart(one: Tensor, other: Tensor) -> float:
    """The largest difference of two tensors; infinity where one has what is no number."""
    return float((one.double() - other.double()).abs().nan_to_num(nan=math.inf).max())


def _largest_numbers(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for row in rows:
        for name, value in row.items():
            if isinstance(value, float) and math.isfinite(value):
                found[name] = max(found.get(name, _ROUNDING), abs(value))
    return found


def _pixels(path: Path) -> NDArray[np.float64]:
    with Image.open(path) as picture:
        return np.asarray(picture, dtype=np.float64)


def _json(path: Path) -> Any:
    text = path.read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text)
