"""Score tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from torch import Tensor

from guda_lightning.errors import ConfigError, GudaError
from guda_lightning.scores.columns import SCHEMA, distinct, pivot, refuse_unusable, rows_of
from guda_lightning.scores.maps import GroupMaps
from guda_lightning.scores.record import Joined, ScoreRecord
from guda_lightning.scores.shown import Shown
from guda_lightning.scores.squared_errors import REMAKE, unreadable
from guda_lightning.scores.verdicts import Verdict, verdicts_of_text, verdicts_to_text, worst
from guda_lightning.storage.files import canonical_json
from guda_lightning.storage.sealed import sealed_parquet
from guda_lightning.storage.seals import refuse_damaged

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class ScoreTable(Shown):
    """How much each group contributed to each query, one row per query and group.

    A positive score says that removing the group would make the query less likely.

    Attributes:
        table: The columns ``query, group, score, stderr, n_draws, method, weighting, seed``. Score and its
            stderr share the method's unit, for the weighting "elbo" that of
            nats, of whatever size (``views`` says what they may claim); n_draws counts noise draws per query.
        record: What identifies the scores.
        notes: What a user should know of the scoring besides the scores; not stored.
        verdicts: Whether the counterfactual of a group can be believed, by its name; empty where there are
            none or nobody has looked. Stored, but no part of what identifies the scores.
        maps: Which part of each query came from which group, where the method can tell; a file of its own.
    """

    table: pa.Table
    record: ScoreRecord
    notes: tuple[str, ...] = ()
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    maps: GroupMaps | None = None

    def __post_init__(self) -> None:
        refuse_unusable(self.table)

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
        rows = rows_of(
            scores, stderr, query_ids, groups, n_draws, method=method, weighting=weighting, seed=seed
        )
        return cls(rows, record)

    @classmethod
    def concat(cls, tables: Sequence[ScoreTable]) -> ScoreTable:
        """Join tables of different methods, weightings, seeds, queries or groups.

        The record is theirs when they share one, else of kind `Joined`. The verdicts of several seeds of
        one method are the worst on each group; of several methods there are none.

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
        held: dict[ScoreRecord, dict[str, None]] = {}  # the methods of each record, in order
        for table in tables:
            held.setdefault(table.record, {}).update(dict.fromkeys(table.methods))
        records, methods = tuple(held), tuple(map(tuple, held.values()))
        details = Joined(tables=records, methods=methods)
        joined = records[0] if len(records) == 1 else ScoreRecord(details, per=tables[0].per)
        notes = tuple(dict.fromkeys(note for table in tables for note in table.notes))
        verdicts = tables[0].verdicts if len(records) == 1 else _verdicts_of_seeds(tables)
        return cls(pa.concat_tables([table.table for table in tables]), joined, notes, verdicts)

    @property
    def queries(self) -> tuple[str, ...]:
        """Names of the queries, in the order of their first row."""
        return distinct(self.table, "query")

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups, in the order of their first row."""
        return distinct(self.table, "group")

    @property
    def methods(self) -> tuple[str, ...]:
        """Methods that the table holds."""
        return distinct(self.table, "method")

    @property
    def weightings(self) -> tuple[str, ...]:
        """Weightings that the table holds."""
        return distinct(self.table, "weighting")

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds that the table holds."""
        return distinct(self.table, "seed")

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
        return pivot(self.table, "score")

    def stderr_matrix(self) -> Tensor:
        """Standard errors as ``[queries, groups]`` float64; raises as ``matrix`` does."""
        return pivot(self.table, "stderr")

    def to_pandas(self) -> pd.DataFrame:
        """All rows as a pandas frame."""
        frame: pd.DataFrame = self.table.to_pandas()
        return frame

    def save(self, path: str | Path) -> None:
        """Write one Parquet file, atomically, with record and verdicts as JSON in the schema's metadata."""
        ScoreTable.save_parts(path, [self], self.record, self.verdicts)

    @staticmethod
    def save_parts(
        path: str | Path,
        parts: Iterable[ScoreTable],
        record: ScoreRecord,
        verdicts: Mapping[str, Verdict] | None = None,
    ) -> None:
        """Write tables that share no rows as one, with one of them in memory at a time.

        Args:
            path: The file.
            parts: The tables, in order; their own records are dropped.
            record: What identifies all of them.
            verdicts: On the counterfactuals behind all of them.
        """
        said = {_VERDICTS: verdicts_to_text(verdicts)} if verdicts else {}
        metadata = {_RECORD: canonical_json(record.to_stored()), **said}
        with sealed_parquet(path, SCHEMA.with_metadata(metadata)) as writer:
            for part in parts:
                writer.write_table(part.table, row_group_size=max(1, len(part)))

    @classmethod
    def load(cls, path: str | Path) -> ScoreTable:
        """Read what ``save`` wrote.

        Raises:
            StoreError: The file is missing, damaged or no score table.
        """
        with _stored(path) as (file, record, verdicts):
            return cls(file.read().replace_schema_metadata(None), record, verdicts=verdicts)

    @classmethod
    def load_parts(cls, path: str | Path) -> Iterator[ScoreTable]:
        """Read what ``save_parts`` wrote, table by table, each with the record of all; raises as ``load``."""
        with _stored(path) as (file, record, verdicts):
            for number in range(file.num_row_groups):
                rows = file.read_row_group(number).replace_schema_metadata(None)
                yield cls(rows, record, verdicts=verdicts)

    @staticmethod
    def load_record(path: str | Path) -> ScoreRecord:
        """Read the record of a stored table, but no row; raises as ``load``."""
        with _stored(path) as (_, record, _):
            return record

    @staticmethod
    def load_verdicts(path: str | Path) -> dict[str, Verdict]:
        """Read the verdicts of a stored table, but no row; raises as ``load``."""
        with _stored(path) as (_, _, verdicts):
            return verdicts

    @staticmethod
    def exists(path: str | Path) -> bool:
        """Whether the file is there; it is written atomically, so it is whole."""
        return Path(path).is_file()

    @staticmethod
    def is_complete(path: str | Path, record: ScoreRecord) -> bool:
        """Whether a table of this record is there, in whatever chunks it was made; raises as ``load``."""
        if not ScoreTable.exists(path):
            return False
        return replace(ScoreTable.load_record(path), chunks=()) == replace(record, chunks=())


def _verdicts_of_seeds(tables: Sequence[ScoreTable]) -> Mapping[str, Verdict]:
    """The worst verdict on each group over tables of several seeds of one method."""
    if len({table.methods for table in tables}) > 1 or any(len(table.seeds) > 1 for table in tables):
        return {}
    return worst({table.seeds[0]: table.verdicts for table in tables})


_RECORD, _VERDICTS = b"guda_lightning", b"guda_lightning_verdicts"  # in the metadata of a file


@contextmanager
def _stored(path: str | Path) -> Iterator[tuple[pq.ParquetFile, ScoreRecord, dict[str, Verdict]]]:
    """A stored table's file, record and verdicts; what goes wrong in the block is the file's fault."""
    refuse_damaged(path, REMAKE)
    try:
        with pq.ParquetFile(path) as file:
            metadata = file.schema_arrow.metadata
            record = ScoreRecord.from_stored(json.loads(metadata[_RECORD]))
            yield file, record, verdicts_of_text(metadata.get(_VERDICTS, b"[]"))
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError, GudaError) as error:
        raise unreadable(path, error, "a score table written by guda-lightning") from error
