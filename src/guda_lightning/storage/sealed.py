"""JSON, Parquet and safetensors files with a seal: written whole, and refused where they are damaged."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guda_lightning.storage.files import canonical_json, read_json, write_atomic
from guda_lightning.storage.seals import SEAL, UNSEALED, refuse_damaged, sealed, sealed_file, sealed_json
from guda_lightning.storage.weights_record import RECORD

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from torch import Tensor

_ABOUT = "guda_lightning"  # one entry: safetensors keeps several in no order


def write_json(path: str | Path, value: Mapping[str, Any]) -> None:
    """Write a sealed JSON object, atomically."""
    write_atomic(path, sealed_json(value))


def read_sealed(path: str | Path, fix: str) -> dict[str, Any]:
    """Read a sealed JSON object, without its seal.

    Args:
        path: The file.
        fix: What to do where it is missing or damaged.

    Raises:
        StoreError: It is missing or damaged.
    """
    refuse_damaged(path, fix)
    return {name: value for name, value in read_json(path).items() if name != SEAL}


def folder_record(folder: Path) -> dict[str, Any]:
    """The sealed record of a folder that a stage wrote.

    Raises:
        StoreError: It is missing or damaged.
    """
    return read_sealed(folder / RECORD, remake(folder))


def remake(folder: Path) -> str:
    """What to do about a damaged folder."""
    return f"remove {folder} and run the command that makes it again"


@contextmanager
def sealed_parquet(
    path: str | Path, schema: pa.Schema, room: str = "room for the whole file"
) -> Iterator[pq.ParquetWriter]:
    """A sealed Parquet file to write tables to, which appears when the block has ended without an error.

    Args:
        path: The file.
        schema: Of the tables, with what else the file says.
        room: What the disk should have, for an error.
    """
    import pyarrow.parquet as pq  # here, as records are read without it

    with sealed_file(path, room) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        writer.add_key_value_metadata(UNSEALED)  # in the footer alone: a schema is kept twice
        yield writer


def write_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any] | None = None
) -> None:
    """Write a sealed safetensors file, atomically.

    Args:
        path: The file.
        tensors: By name.
        about: What ``open_tensors`` reads back, as JSON values.
    """
    from safetensors.torch import save  # here, as seals are checked without torch

    here = {name: value.cpu().contiguous() for name, value in tensors.items()}
    write_atomic(path, sealed(save(here, {_ABOUT: canonical_json({**(about or {}), **UNSEALED})})))


def read_tensors(path: str | Path, fix: str) -> dict[str, Tensor]:
    """Read the tensors of a sealed safetensors file; raises as ``open_tensors``."""
    return open_tensors(path, fix)[0]


def open_tensors(path: str | Path, fix: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors of a sealed safetensors file, and what it says of them.

    Args:
        path: The file.
        fix: What to do where it is missing or damaged.

    Raises:
        StoreError: It is missing or damaged.
    """
    from safetensors import safe_open

    refuse_damaged(path, fix)
    with safe_open(path, "pt") as file:
        about: dict[str, Any] = json.loads(file.metadata()[_ABOUT])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
    return tensors, {name: value for name, value in about.items() if name != SEAL}
