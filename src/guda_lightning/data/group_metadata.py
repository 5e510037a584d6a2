"""Groups of samples in a ``.csv``, ``.tsv`` or ``.jsonl`` file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from guda_lightning.data.group_names import Names, one_of, quoted
from guda_lightning.data.rows import read_rows
from guda_lightning.errors import DataError, GroupError
from guda_lightning.storage.files import canonical_json
from guda_lightning.storage.paths import user_path


def read_group_metadata(
    path: str | Path, sample_ids: Sequence[str], id_column: str, group_column: str, separator: str
) -> list[tuple[str, ...]]:
    """Read the names of every sample's groups; none where the file does not name the sample.

    Args:
        path: The file; UTF-8.
        sample_ids: One id per sample; blanks around them and the encoding of accents may differ in the file.
        id_column: Column of the sample's id.
        group_column: Column of its group or groups.
        separator: Text between the names of several groups.

    Raises:
        DataError: The file is missing or broken, lacks a column, names an unknown sample, or repeats itself.
        GroupError: No sample has a group.
    """
    path = user_path(path)
    positions = {sample_id: position for position, sample_id in enumerate(sample_ids)}
    known = Names(sample_ids)
    groups: list[tuple[str, ...]] = [()] * len(sample_ids)
    example = '{"id": "0", "group": "cats"}'
    for line, row in read_rows(path, "group metadata", example, (id_column, group_column)):
        given = _id(path, line, row[id_column], id_column)
        sample_id = known.find(given)
        if sample_id is None:
            raise DataError(
                f"{path}, line {line}: unknown sample {quoted(given)}",
                found=f"{id_column} {quoted(given)}",
                expected=one_of(given, sample_ids, "samples"),
                fix=f"correct the column '{id_column}' or remove the line",
            )
        position = positions[sample_id]
        names = _names(path, line, row[group_column], separator)
        if repeated := sorted(set(names) & set(groups[position])) or _repeated(names):
            raise DataError(
                f"{path}, line {line}: sample '{sample_id}' is put into group '{repeated[0]}' again",
                found="the same sample and group twice",
                expected="each pair of sample and group once",
                fix="remove one of the two",
            )
        groups[position] += names
    if not any(groups):
        raise GroupError(
            f"{path} puts no sample into a group",
            found="no line with a group",
            expected=f"lines such as {example}"
            if path.suffix.lower() == ".jsonl"
            else f"lines below the columns '{id_column}' and '{group_column}'",
            fix="fill in the table",
        )
    return groups


def group_lines(ids: Sequence[str], groups: Iterable[Sequence[str]]) -> str:
    """The text of a ``.jsonl`` file from which ``read_group_metadata`` reads these groups, of any name.

    Args:
        ids: One id per sample.
        groups: Names of every sample's groups.
    """
    rows = ({"id": sample_id, "group": list(names)} for sample_id, names in zip(ids, groups, strict=True))
    return "".join(f"{canonical_json(row)}\n" for row in rows)


def _id(path: Path, line: int, value: object, column: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise DataError(
            f"{path}, line {line}: no id",
            found=f"{value!r} in the column '{column}'",
            expected="the id of a sample, a text or a whole number",
            fix="fill in the id, or remove the line",
        )
    return str(value)


def _repeated(names: Sequence[str]) -> list[str]:
    return [name for name in names if names.count(name) > 1]


def _names(path: Path, line: int, value: object, separator: str) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [] if value is None else [value]
    for item in values:
        if isinstance(item, bool) or not isinstance(item, str | int):
            raise DataError(
                f"{path}, line {line}: invalid group name",
                found=repr(item),
                expected="a text, a whole number, a list of them, or null",
                fix="correct the line",
            )
    parts = value.split(separator) if isinstance(value, str) else map(str, values)
    return tuple(part.strip() for part in parts if part.strip())
