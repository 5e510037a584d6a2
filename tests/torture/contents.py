"""What a run folder says, without what differs between two undisturbed runs: seconds, and hashes of them."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.numpy
from safetensors import safe_open

# Of time, of what an interruption repeats (validations), and of what holds those.
VOLATILE = {"seconds", "core_seconds", "cost_seconds", "sha256", "seal", "network_evaluations"}
SEAL = re.compile(rb"guda-seal-[0-9a-f]{64}")
LOCKS = ".locks/"
ASIDE = (
    "history/",
    "report/",
    "checkpoints/",
    "scores/costs/",
    "features/costs/",
    ".fit.json",
)  # compared by name


def contents(folder: Path) -> dict[str, str]:
    """Files by name, each with a hash of what it says."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    named = {path.relative_to(folder).as_posix(): path for path in files}
    return {name: said(path, name) for name, path in named.items() if not name.startswith(LOCKS)}


def said(path: Path, name: str) -> str:
    """A hash of what a file says; of one that cannot be read, of its bytes."""
    if name.startswith(ASIDE):
        return "there"
    try:
        return _digest(_normal(path))
    except Exception:
        return _digest(path.read_bytes())


def _normal(path: Path) -> object:
    if path.name == "seal.json":
        return sorted(json.loads(path.read_text("utf-8"))["files"])
    if path.suffix == ".json":
        return _settled(json.loads(path.read_text("utf-8")))
    if path.suffix == ".safetensors":
        with safe_open(path, "np") as file:
            about = file.metadata() or {}
        tensors = safetensors.numpy.load_file(path)
        return [_texts(about), {name: _array(one) for name, one in sorted(tensors.items())}]
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        about = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
        about.pop("ARROW:schema", None)
        columns = {name: _column(name, table[name]) for name in table.column_names}
        return [_texts(about), columns]
    return SEAL.sub(b"", path.read_bytes())


def _column(name: str, column: pa.ChunkedArray) -> object:
    return None if name in VOLATILE or "seconds" in name else repr(column.to_pylist())


def _array(array: np.ndarray[Any, Any]) -> object:
    return [str(array.dtype), array.shape, hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()]


def _texts(about: dict[str, str]) -> object:
    """Metadata of a file, whose values may be JSON."""
    found: dict[str, object] = {}
    for key, text in about.items():
        try:
            found[key] = _settled(json.loads(text))
        except ValueError:
            found[key] = SEAL.sub(b"", text.encode()).decode()
    return _settled(found)


def _settled(value: object) -> object:
    if isinstance(value, dict):
        kept = {key: _settled(one) for key, one in value.items() if key not in VOLATILE}
        return {key: one for key, one in kept.items() if "seconds" not in str(key)}
    if isinstance(value, list):
        return [_settled(one) for one in value]
    return value


def _digest(value: object) -> str:
    data = value if isinstance(value, bytes) else repr(value).encode()
    return hashlib.sha256(data).hexdigest()[:16]
