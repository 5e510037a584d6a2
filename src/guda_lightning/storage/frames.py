"""What a command found, as one Parquet file: rows, and the record of what they were found from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from guda_lightning.errors import StoreError
from guda_lightning.storage.files import canonical_json
from guda_lightning.storage.sealed import sealed_parquet
from guda_lightning.storage.seals import refuse_damaged

if TYPE_CHECKING:
    import pandas as pd

_FORMAT, _KEY = 1, b"guda_lightning"


def save_frame(path: str | Path, frame: pd.DataFrame, record: Mapping[str, Any]) -> None:
    """Write a frame, atomically, with its record as JSON in the schema's metadata.

    Args:
        path: The file; its parent folders are made.
        frame: The rows; the index is dropped.
        record: What they were found from, as JSON values.
    """
    metadata = {_KEY: canonical_json({"format": _FORMAT, "record": dict(record)})}
    table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(metadata)
    with sealed_parquet(path, table.schema, "room for a small file") as writer:
        writer.write_table(table)


def load_frame(path: str | Path, command: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read what ``save_frame`` wrote.

    Args:
        path: The file.
        command: What writes it, such as ``guda evaluate RUN --lds``, for an error.

    Returns:
        The rows, and the record.

    Raises:
        StoreError: It is missing, damaged or something else.
    """
    fix = f"remove it and run {command} again"
    refuse_damaged(path, fix)
    try:
        table = pq.read_table(path)
        about = json.loads(table.schema.metadata[_KEY])
        if about["format"] != _FORMAT:
            raise ValueError(f"format {about['format']} instead of {_FORMAT}")
        record: dict[str, Any] = about["record"]
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise StoreError(
            f"{path} cannot be read",
            found=" ".join(str(error).split())[:200],
            expected=f"what {command} writes",
            fix=fix,
        ) from error
    return table.to_pandas(), record
