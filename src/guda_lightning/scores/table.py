"""Score tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from guda_lightning.errors import ConfigError, GudaError, NumericsError
from guda_lightning.scores.record import Joined, ScoreRecord
from guda_lightning.scores.squared_errors import refuse_repeats, unreadable
from guda_lightning.storage.files import atomic_file, canonical_json

if TYPE_CHECKING:
    import pandas as pd


_SCHEMA = pa.schema(
    {
        "query": pa.string(),
        "group": pa.string(),
        "score": pa.float64(),
        "stderr": pa.float64(),
        "n_draws": pa.int64(),
        "method": pa.string(),
        "weighting": pa.string(),
        "seed": pa.int64(),
    }
)
_KEY = ["query", "group", "method", "weighting", "seed"]


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """How much each group contributed to each query, one row per query and group.

    A positive score says that removing the group would make the query less likely.

    Attributes:
        table: The columns ``query, group, score, stderr, n_draws, method, weighting, seed``. Score and its
            stderr share a unit, nats for the weighting "elbo"; n_draws counts noise draws per query.
        record: What identifies the scores.
        notes: What a user should know of the scoring besides the scores; not stored.
    """

    table: pa.Table
    record: ScoreRecord
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        found = self.table.schema.remove_metadata()
        if found != _SCHEMA or any(column.null_count for column in self.table.columns):
            raise ConfigError(
                "the columns are not those of a score table",
                found=", ".join(f"{field.name}: {field.type}" for field in found),
                expected=", ".join(f"{field.name}: {field.type}" for field in _SCHEMA) + ", without nulls",
                fix="build it with ScoreTable.from_matrix",
            )
        for name in ("score", "stderr"):
            good = pc.is_finite(self.table[name])
            if name == "stderr":
                good = pc.and_(good, pc.greater_equal(self.table[name], 0.0))
            bad = self.table.filter(pc.invert(good))
            if bad.num_rows:
                row = bad.slice(0, 1).to_pylist()[0]
                raise NumericsError(
                    f"the {name} of query {row['query']!r} and group {row['group']!r} is not usable",
                    found=f"{row[name]}, and {bad.num_rows - 1} more like it",
                    expected="finite numbers" if name == "score" else "finite numbers, at least 0",
                    fix="look for NaN in the models' weights or in the query",
                )
        counts = self.table.group_by(_KEY).aggregate([([], "count_all")])
        repeated = counts.filter(pc.greater(counts["count_all"], 1))
        if repeated.num_rows:
            row = repeated.slice(0, 1).to_pylist()[0]
            raise ConfigError(
                f"the score of query {row['query']!r} and group {row['group']!r} is there several times",
                found=f"{row['count_all']} rows with method {row['method']}, weighting {row['weighting']}, "
                f"seed {row['seed']}",
                expected="one row",
                fix="join each table once",
            )

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @classmethod
    def from_matrix(
        cls,
        scores: Tensor,
        stderr: Tensor,
        *,
        query_ids: Sequence[str],
        groups: Sequence[str],
        n_draws: int | Tensor,
        method: str,
        weighting: str,
        seed: int,
        record: ScoreRecord,
    ) -> ScoreTable:
        """Build the long form from matrices.

        Args:
            scores: ``[queries, groups]``.
            stderr: ``[queries, groups]``, the standard error of each score.
            query_ids: Unique names of the rows.
            groups: Unique names of the columns.
            n_draws: Noise draws per query, at least 1, or ``[queries, groups]`` of them.
            method: What made the scores, e.g. an operator.
            weighting: How timesteps were weighted: a ``Weighting``, or what else a method compares by.
            seed: Seed of the counterfactuals.
            record: What identifies the scores.

        Raises:
            ConfigError: Shapes and names do not fit.
            NumericsError: A score or standard error is not finite.
        """
        shape = (len(query_ids), len(groups))
        for name, matrix in (("scores", scores), ("stderr", stderr)):
            if matrix.shape != shape:
                raise ConfigError(
                    f"the shape of {name} does not fit the names of queries and groups",
                    found=tuple(matrix.shape),
                    expected=f"{shape}: queries, groups",
                    fix="give one row per query id and one column per group",
                )
        refuse_repeats("query", query_ids)
        refuse_repeats("group", groups)
        size = shape[0] * shape[1]
        columns = {
            "query": np.repeat(np.asarray(query_ids, object), shape[1]),
            "group": np.tile(np.asarray(groups, object), shape[0]),
            "score": scores.detach().double().cpu().flatten().numpy(),
            "stderr": stderr.detach().double().cpu().flatten().numpy(),
            "n_draws": torch.as_tensor(n_draws).expand(shape).flatten().numpy(),
            "method": np.full(size, method, object),
            "weighting": np.full(size, weighting, object),
            "seed": np.full(size, seed),
        }
        return cls(pa.table(columns, schema=_SCHEMA), record)

    @classmethod
    def concat(cls, tables: Sequence[ScoreTable]) -> ScoreTable:
        """Join tables of different methods, weightings, seeds, queries or groups.

        The record is theirs when they share one, else of kind `Joined`.

        Raises:
            ConfigError: Some have scores per sample and some per group, or they share rows.
        """
        if len({table.per for table in tables}) > 1:
            raise ConfigError(
                "scores per sample and scores per group cannot stand in one table",
                found=", ".join(f"{'+'.join(table.methods)} per {table.per}" for table in tables),
                expected="one unit",
                fix="call per_sample() on all of them, or on none",
            )
        records = tuple(dict.fromkeys(table.record for table in tables))
        joined = records[0] if len(records) == 1 else ScoreRecord(Joined(tables=records), per=tables[0].per)
        notes = tuple(dict.fromkeys(note for table in tables for note in table.notes))
        return cls(pa.concat_tables([table.table for table in tables]), joined, notes)

    @property
    def queries(self) -> tuple[str, ...]:
        """Names of the queries, in the order of their first row."""
        return self._distinct("query")

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups, in the order of their first row."""
        return self._distinct("group")

    @property
    def methods(self) -> tuple[str, ...]:
        """Methods that the table holds."""
        return self._distinct("method")

    @property
    def weightings(self) -> tuple[str, ...]:
        """Weightings that the table holds."""
        return self._distinct("weighting")

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds that the table holds."""
        return self._distinct("seed")

    @property
    def per(self) -> Literal["group", "sample"]:
        """What a score belongs to: a whole group, or (after ``per_sample``) one sample of it on average."""
        return self.record.per

    def per_sample(self) -> ScoreTable:
        """Divide every score and standard error by the number of samples in its group.

        Larger groups contribute more by their size alone; this compares groups of different sizes.

        Raises:
            ConfigError: The scores are per sample already, or their record does not say how large the groups
                are.
        """
        if self.per == "sample":
            raise ConfigError(
                "the scores are divided by the size of their group already",
                found="scores per sample",
                expected="scores per group",
                fix="call per_sample() once",
            )
        sizes = self.record.group_sizes
        if missing := [group for group in self.groups if group not in sizes]:
            raise ConfigError(
                "the record of the scores does not say how large the groups are",
                found=f"group_sizes without {', '.join(missing)}" if sizes else "no group_sizes",
                expected="the number of samples in each group",
                fix="score again with guda attribute, and divide before tables are joined",
            )
        divisor = pa.array([sizes[group] for group in self.table["group"].to_pylist()], pa.float64())
        table = self.table
        for name in ("score", "stderr"):
            column = table.schema.get_field_index(name)
            table = table.set_column(column, name, pc.divide(table[name], divisor))
        return replace(self, table=table, record=replace(self.record, per="sample"))

    def select(
        self, method: str | None = None, weighting: str | None = None, seed: int | None = None
    ) -> ScoreTable:
        """Keep the rows of one method, weighting or seed; None keeps all of them.

        Raises:
            ConfigError: No row is left; the message names the choices.
        """
        table = self.table
        for name, value in (("method", method), ("weighting", weighting), ("seed", seed)):
            if value is None:
                continue
            choices = pc.unique(table[name]).to_pylist()
            if value not in choices:
                raise ConfigError(
                    f"the score table has no rows with {name} {value}",
                    found=", ".join(map(str, choices)) or "no rows",
                    expected=value,
                    fix=f"choose one of the {name}s that were found",
                )
            table = table.filter(pc.equal(table[name], value))
        return replace(self, table=table)

    def matrix(self) -> Tensor:
        """Scores as ``[queries, groups]`` float64, in the order of ``queries`` and ``groups``.

        Raises:
            ConfigError: Several methods, weightings or seeds are present, or rows are missing.
        """
        return self._pivot("score")

    def stderr_matrix(self) -> Tensor:
        """Standard errors as ``[queries, groups]`` float64; raises as ``matrix`` does."""
        return self._pivot("stderr")

    def to_pandas(self) -> pd.DataFrame:
        """All rows as a pandas frame."""
        frame: pd.DataFrame = self.table.to_pandas()
        return frame

    def save(self, path: str | Path) -> None:
        """Write one Parquet file, atomically, with the record as JSON in the schema's metadata."""
        ScoreTable.save_parts(path, [self], self.record)

    @staticmethod
    def save_parts(path: str | Path, parts: Iterable[ScoreTable], record: ScoreRecord) -> None:
        """Write tables that share no rows as one, with one of them in memory at a time.

        Args:
            path: The file.
            parts: The tables, in order; their own records are dropped.
            record: What identifies all of them.
        """
        schema = _SCHEMA.with_metadata({"guda_lightning": canonical_json(record.to_stored())})
        with (
            atomic_file(path) as temporary,
            pq.ParquetWriter(temporary, schema, write_page_checksum=True) as writer,
        ):
            for part in parts:
                writer.write_table(part.table, row_group_size=max(1, len(part)))

    @classmethod
    def load(cls, path: str | Path) -> ScoreTable:
        """Read what ``save`` wrote.

        Raises:
            StoreError: The file is missing, damaged or no score table.
        """
        with _stored(path) as (file, record):
            return cls(file.read().replace_schema_metadata(None), record)

    @classmethod
    def load_parts(cls, path: str | Path) -> Iterator[ScoreTable]:
        """Read what ``save_parts`` wrote, table by table, each with the record of all; raises as ``load``."""
        with _stored(path) as (file, record):
            for number in range(file.num_row_groups):
                yield cls(file.read_row_group(number).replace_schema_metadata(None), record)

    @staticmethod
    def load_record(path: str | Path) -> ScoreRecord:
        """Read the record of a stored table, but no row; raises as ``load``."""
        with _stored(path) as (_, record):
            return record

    @staticmethod
    def exists(path: str | Path) -> bool:
        """Whether the file is there; it is written atomically, so it is whole."""
        return Path(path).is_file()

    @staticmethod
    def is_complete(path: str | Path, record: ScoreRecord) -> bool:
        """Whether a table is there that has this record; in which chunks it was made does not matter.

        Raises:
            StoreError: What is there is damaged or no score table.
        """
        if not ScoreTable.exists(path):
            return False
        return replace(ScoreTable.load_record(path), chunks=()) == replace(record, chunks=())

    def _distinct(self, column: str) -> tuple[Any, ...]:
        return tuple(pc.unique(self.table[column]).to_pylist())

    def _pivot(self, column: str) -> Tensor:
        for name in ("method", "weighting", "seed"):
            choices = self._distinct(name)
            if len(choices) != 1:
                raise ConfigError(
                    f"a matrix needs a score table with one {name}",
                    found=", ".join(map(str, choices)) or "no rows",
                    expected=f"one {name}",
                    fix=f"choose with select({name}=...)",
                )
        queries, groups = self.queries, self.groups
        rows = pc.index_in(self.table["query"], pa.array(queries)).to_numpy()
        columns = pc.index_in(self.table["group"], pa.array(groups)).to_numpy()
        present = np.zeros((len(queries), len(groups)), bool)
        present[rows, columns] = True
        if not present.all():
            query, group = np.argwhere(~present)[0]
            raise ConfigError(
                f"the score of query {queries[query]!r} and group {groups[group]!r} is missing",
                found=f"{len(self)} rows for {len(queries)} queries and {len(groups)} groups",
                expected=f"{present.size} rows",
                fix="score all queries under all groups with guda attribute",
            )
        matrix = np.empty(present.shape)
        matrix[rows, columns] = self.table[column].to_numpy()
        return torch.from_numpy(matrix)


@contextmanager
def _stored(path: str | Path) -> Iterator[tuple[pq.ParquetFile, ScoreRecord]]:
    """A stored table's open file and its record; what goes wrong in the block is the file's fault."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            yield file, ScoreRecord.from_stored(json.loads(file.schema_arrow.metadata[b"guda_lightning"]))
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError, GudaError) as error:
        raise unreadable(path, error, "a score table written by guda-lightning") from error
