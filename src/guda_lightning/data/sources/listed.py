"""The samples of a source that a table names."""

from __future__ import annotations

from dataclasses import dataclass

from guda_lightning.data.group_names import Names, one_of, quoted
from guda_lightning.data.rows import read_rows
from guda_lightning.data.sources.source import ImageTable, Source
from guda_lightning.errors import DataError
from guda_lightning.storage.paths import user_path


@dataclass(frozen=True)
class Listed(Source):
    """Only those samples of a source that a table names; all else of it is as it was.

    With the ``groups.jsonl`` that ``guda curate`` writes, the data without the groups that should leave.

    Args:
        base: Where the samples come from.
        path: A .csv, .tsv or .jsonl file with a column ``id``; a sample may have several lines.
    """

    base: Source
    path: str

    def load(self) -> ImageTable:
        """List the samples that are named, in the order of the source.

        Raises:
            DataError: The table cannot be read, or names samples that the source lacks, or none.
        """
        table, path = self.base.load(), user_path(self.path)
        known, named = Names(table.ids), set[str]()
        for line, row in read_rows(path, "list of samples", '{"id": "0"}', ("id",)):
            given = str(row["id"])
            found = known.find(given)
            if found is None:
                raise DataError(
                    f"{path}, line {line}: unknown sample {quoted(given)}",
                    found=f"id {quoted(given)}",
                    expected=one_of(given, table.ids, "samples"),
                    fix="correct the column 'id' or remove the line",
                )
            named.add(found)
        rows = [row for row, name in enumerate(table.ids) if name in named]
        if not rows:
            raise DataError(
                f"{path} names no sample",
                found="no line with an id",
                expected="the samples to keep, one a line",
                fix="fill in the table",
            )
        labels, prompts = (
            None if values is None else tuple(values[row] for row in rows)
            for values in (table.labels, table.prompts)
        )
        ids = tuple(table.ids[row] for row in rows)
        return ImageTable(ids, lambda index: table.read(rows[index]), labels, table.label_names, prompts)
