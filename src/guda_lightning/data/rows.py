"""Tables that users write, row by row."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from guda_lightning.errors import DataError


def read_rows(path: Path, kind: str, example: str) -> Iterator[tuple[int, dict[str, object]]]:
    """Read a table that a user wrote, row by row.

    Args:
        path: A ``.csv`` file with a line of column names, or a ``.jsonl`` file; UTF-8.
        kind: What the table is, for errors.
        example: A line of a ``.jsonl`` file, for errors.

    Yields:
        The number of the line, from 1, and its cells by column.

    Raises:
        DataError: The file is missing or broken.
    """
    if path.suffix not in (".csv", ".jsonl"):
        raise DataError(
            f"{path} is no {kind}",
            found=f"a name ending in '{path.suffix}'",
            expected="a .csv or .jsonl file",
            fix="save the table in one of these formats",
        )
    try:
        # utf-8-sig: spreadsheets write a byte order mark, which would become part of the first column's name.
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix == ".csv":
                reader = csv.DictReader(file)
                for row in reader:
                    # Empty cells are there; a short line has None, which counts as a missing column.
                    yield reader.line_num, {key: value for key, value in row.items() if value is not None}
            else:
                for line, text in enumerate(file, start=1):
                    if text.strip():
                        yield line, _json_object(path, line, text, example)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"the {kind} {path} cannot be read",
            found=error.strerror if isinstance(error, OSError) else error,
            expected="a readable UTF-8 file",
            fix="check the path",
        ) from error


def require_columns(path: Path, line: int, row: Mapping[str, object], columns: Sequence[str]) -> None:
    """Refuse a row of ``read_rows`` that lacks a column.

    Raises:
        DataError: It does.
    """
    for column in columns:
        if column not in row:
            raise DataError(
                f"{path}, line {line}: no column '{column}'",
                found=f"the columns {', '.join(map(repr, row))}",
                expected=f"a column '{column}'",
                fix="name the columns so, or fill in the line",
            )


def _json_object(path: Path, line: int, text: str, example: str) -> dict[str, object]:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:  # also numbers of thousands of digits, or deep brackets
        row = error
    if not isinstance(row, dict):
        raise DataError(
            f"{path}, line {line}: invalid JSON",
            found=text.strip()[:80],
            expected=f"one object per line, such as {example}",
            fix="correct the line",
        )
    return row
