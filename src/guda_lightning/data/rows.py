"""Tables that users write, row by row."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from guda_lightning.data.unchanged import refuse_changed
from guda_lightning.errors import DataError
from guda_lightning.storage.files import read_regular

_DELIMITERS = {".csv": ",;\t", ".tsv": "\t,;"}  # the first one where no header decides
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\r?\n?')  # by which Excel tells itself the delimiter
_SPREADSHEET = "save it as 'CSV UTF-8', which every spreadsheet offers"
# What begins a file that is no text. Excel's first line of a CSV file in UTF-16 is that of UTF-16.
_OTHERS = {
    b"PK\x03\x04": "an Excel workbook, or another zip archive",
    b"\xd0\xcf\x11\xe0": "an Excel workbook of before 2007",
    b"PAR1": "a Parquet file",
    b"\x1f\x8b": "a gzip archive",
    b"\xff\xfe\x00\x00": "text in UTF-32",
    b"\x00\x00\xfe\xff": "text in UTF-32",
    b"\xff\xfe": "text in UTF-16",
    b"\xfe\xff": "text in UTF-16",
}


def read_rows(
    path: Path, kind: str, example: str, columns: Sequence[str] = ()
) -> Iterator[tuple[int, dict[str, object]]]:
    """Read a table that a user wrote, row by row.

    A ``.csv`` or ``.tsv`` file has a line of column names. Commas, semicolons or tabs stand between the
    cells: what gives the first line the columns that are needed. Lines without any text are left out, as are
    blanks before a cell, columns without a name and empty cells beyond the last column.

    Args:
        path: A ``.csv``, ``.tsv`` or ``.jsonl`` file; UTF-8.
        kind: What the table is, for errors.
        example: A line of a ``.jsonl`` file, for errors.
        columns: The columns that every row must have.

    Yields:
        The number of the line, from 1, and its cells by column.

    Raises:
        DataError: The file is missing or broken, or a row lacks a column.
    """
    suffix = path.suffix.lower()
    if suffix not in (*_DELIMITERS, ".jsonl"):
        raise DataError(
            f"{path} is no {kind}",
            found=f"a name ending in '{path.suffix}'",
            expected="a .csv, .tsv or .jsonl file",
            fix="save the table in one of these formats",
        )
    text = read_text(path, kind)
    if suffix == ".jsonl":
        rows = _json_rows(path, text, example)
    else:
        rows = _csv_rows(path, kind, text, columns, _DELIMITERS[suffix])
    for line, row in rows:
        require_columns(path, line, row, columns)
        yield line, row


def read_text(path: Path, kind: str) -> str:
    """Read a text that a user wrote in UTF-8, without its byte order mark.

    Raises:
        DataError: The file is missing, no text, or in another encoding.
        StoreError: A stage wrote it, and it has changed since.
    """

    def refuse(found: object, fix: str) -> DataError:
        return DataError(
            f"the {kind} {path} cannot be read", found=found, expected="a readable UTF-8 file", fix=fix
        )

    save = _SPREADSHEET if path.suffix.lower() in _DELIMITERS else "save it as UTF-8"
    try:
        content = read_regular(path)
    except OSError as error:
        raise refuse(error.strerror, "check the path") from error
    refuse_changed(path)  # a table that lost its end looks like a shorter one
    for start, other in _OTHERS.items():
        if content.startswith(start):
            raise refuse(other, save)
    if content[:1] == b"\0" or content[1:2] == b"\0":
        raise refuse("text in UTF-16", save)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start)
        seen = content.split(b"\n")[line].decode("cp1252", "replace").strip()[:80]
        raise refuse(f"another encoding on line {line + 1}, perhaps Windows-1252: {seen}", save) from error


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


def prompt_of(path: Path, line: int, row: Mapping[str, object]) -> object:
    """The cell of a row of ``read_rows`` that holds its prompt: column ``prompt``, or ``text``.

    Raises:
        DataError: There is neither.
    """
    name = "text" if "text" in row and "prompt" not in row else "prompt"
    require_columns(path, line, row, (name,))
    return row[name]


def _csv_rows(
    path: Path, kind: str, text: str, columns: Sequence[str], delimiters: str
) -> Iterator[tuple[int, dict[str, object]]]:
    first = _SEPARATOR_LINE.match(text)
    if first:
        text, delimiters = text[first.end() :], first[1]
    skipped = 1 if first else 0
    delimiter = max(delimiters, key=lambda one: _fit(text, one, columns))
    names: list[str] | None = None
    reader = _reader(text, delimiter)
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise DataError(
                f"{path}, line {reader.line_num + skipped}: the {kind} is broken",
                found=error,
                expected="cells in pairs of quotes, with quotes inside them doubled",
                fix="correct the line, or one before it where a quote is left open",
            ) from error
        if cells is None:
            return
        if not any(map(str.strip, cells)):
            continue
        line = reader.line_num + skipped
        if names is None:
            names = _column_names(cells)
            _refuse_repeated(f"{path}, line {line}", [name for name in names if name], "column")
            continue
        if any(map(str.strip, cells[len(names) :])):
            raise DataError(
                f"{path}, line {line}: more cells than columns",
                found=f"{len(cells)} cells: {', '.join(map(repr, cells))[:200]}",
                expected=f"{len(names)} cells: {', '.join(map(repr, names))[:200]}",
                fix="put a text that holds the delimiter into quotes",
            )
        # Empty cells are there; a short line counts as one without the last columns.
        yield line, {name: cell for name, cell in zip(names, cells, strict=False) if name}


def _reader(text: str, delimiter: str) -> Any:
    return csv.reader(StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)


def _column_names(cells: Sequence[str]) -> list[str]:
    return [cell.strip("\ufeff \t\r\n") for cell in cells]


def _fit(text: str, delimiter: str, columns: Sequence[str]) -> tuple[int, int]:
    """How many of the columns the first line has with a delimiter, and how many columns at all."""
    try:
        header: list[str] = next(
            (cells for cells in _reader(text, delimiter) if any(map(str.strip, cells))), []
        )
    except csv.Error:
        return 0, 0
    names = _column_names(header)
    return len(set(columns) & set(names)), len(names)


def _json_rows(path: Path, text: str, example: str) -> Iterator[tuple[int, dict[str, object]]]:
    for line, one in enumerate(StringIO(text, newline=""), start=1):
        if one.strip():
            yield line, _json_object(path, line, one, example)


def _json_object(path: Path, line: int, text: str, example: str) -> dict[str, object]:
    def unique(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
        _refuse_repeated(f"{path}, line {line}", [name for name, _ in pairs], "entry")
        return dict(pairs)

    try:
        row = json.loads(text, object_pairs_hook=unique)
        json.dumps(row, ensure_ascii=False).encode()  # an escape of half a character can be written nowhere
    except (ValueError, RecursionError) as error:  # also numbers of thousands of digits, and deep brackets
        row = error
    if not isinstance(row, dict):
        raise DataError(
            f"{path}, line {line}: invalid JSON",
            found=text.strip()[:80],
            expected=f"one object per line, such as {example}",
            fix="correct the line",
        )
    return row


def _refuse_repeated(where: str, names: Sequence[str], what: str) -> None:
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise DataError(
            f"{where}: the {what} '{repeated}' is there twice",
            found=", ".join(map(repr, names)),
            expected=f"each {what} once",
            fix="rename or remove one of them",
        )
