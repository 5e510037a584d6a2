"""Scoring in chunks of queries: what is in memory at a time, what of it is done, and what is left."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from guda_lightning.attribution.attributor import FittedAttributor
from guda_lightning.data import GroupDataModule, QueryFolder, QueryHash
from guda_lightning.errors import QueryError
from guda_lightning.progress_bar import progress_bar
from guda_lightning.scores import ScoreRecord, ScoreTable, Verdict
from guda_lightning.scores.record import ChunkRecord
from guda_lightning.storage.seals import intact
from guda_lightning.types import Queries

CHUNK_QUERIES = 1024  # at most: enough that changing the weights costs little beside scoring with them
CHUNK_BYTES = 2**30  # at most: fewer queries where pictures are large, or groups and timesteps many


@dataclass(frozen=True)
class StreamedQueries:
    """Queries on disk, and the data that say how a model takes them."""

    folder: QueryFolder
    data: GroupDataModule
    conditional: bool

    def __len__(self) -> int:
        return len(self.folder)

    def read(self, rows: Sequence[int]) -> Queries:
        """Some queries with all that identifies them, not encoded.

        Raises:
            QueryError: An image is damaged or of another shape, or what the model takes besides is missing.
        """
        return self.data.conditioned(self.folder.load(rows), self.conditional)

    @contextmanager
    def encoded(self, rows: Sequence[int]) -> Iterator[Queries]:
        """Some queries as the model takes them, while the block lasts; raises as ``read``."""
        with self.data.forgetting_prompts():
            yield self.data.as_queries(self.folder.load(rows), self.conditional)


@dataclass(frozen=True)
class Chunk:
    """Queries that are scored together.

    Attributes:
        rows: Their numbers among all queries.
        part: The file of their scores.
        record: What identifies these.
        done: Whether they are there.
        evaluations: Network evaluations that are left.
    """

    rows: range
    part: Path
    record: ScoreRecord
    done: bool
    evaluations: int

    @property
    def name(self) -> str:
        """What to call it, counted from 1."""
        return f"queries {self.rows.start + 1} to {self.rows.stop}"

    def score(self, attributor: FittedAttributor, requested: StreamedQueries) -> ScoreTable:
        """Score the queries.

        Raises:
            QueryError: They are others than when the chunk was planned.
        """
        with requested.encoded(self.rows) as queries:
            if attributor.record(queries) != self.record:
                raise QueryError(
                    "the queries changed while they were scored",
                    found=f"other images, labels or prompts among {self.name}",
                    expected="what was there when guda attribute began",
                    fix="run it again: what is scored already is kept",
                )
            return attributor.score(queries)


@dataclass(frozen=True)
class ChunkedTable:
    """A score table as the chunks that it is made of.

    Attributes:
        chunks: In the order of the queries.
        record: What identifies the scores of all of them.
    """

    chunks: Sequence[Chunk]
    record: ScoreRecord

    @classmethod
    def of(cls, attributor: FittedAttributor, requested: StreamedQueries, folder: Path) -> ChunkedTable:
        """Read every query once, and see which parts of the table are done.

        Args:
            attributor: What scores.
            requested: The queries.
            folder: Where the parts lie.

        Raises:
            QueryError: A query cannot be scored.
            StoreError: A part cannot be read.
        """
        size = _chunk_size(attributor, requested.folder.image_shape)
        digest, chunks = QueryHash(), []
        with progress_bar("read queries", "queries", len(requested), delay=2) as bar:
            for start in range(0, len(requested), size):
                rows, part = range(start, min(start + size, len(requested))), folder / f"{start}.parquet"
                queries = requested.read(rows)
                digest.add(queries)
                record = attributor.record(queries)
                done = intact(part, "it is scored again") and ScoreTable.is_complete(part, record)
                left = 0 if done else attributor.evaluations(queries)
                chunks.append(Chunk(rows, part, record, done, left))
                bar.update(len(rows))
        if len(chunks) == 1:  # whose errors and parts are those of all queries
            return cls(chunks, chunks[0].record)
        parts = tuple(ChunkRecord(len(one.rows), str(one.record.query_hash)) for one in chunks)
        return cls(chunks, replace(chunks[0].record, query_hash=digest.hexdigest(), chunks=parts))

    @property
    def several(self) -> bool:
        """Whether the queries are too many to be in memory together."""
        return len(self.chunks) > 1

    @property
    def evaluations(self) -> int:
        """Network evaluations that are left."""
        return sum(chunk.evaluations for chunk in self.chunks)

    @property
    def left(self) -> list[Chunk]:
        """The chunks that are to be scored."""
        return [chunk for chunk in self.chunks if not chunk.done]

    def parts(self) -> Iterator[ScoreTable]:
        """The scores of every chunk, one after the other."""
        return (ScoreTable.load(chunk.part) for chunk in self.chunks)

    def save(self, path: Path, verdicts: Mapping[str, Verdict]) -> None:
        """Write the table from its parts, with the verdicts on its counterfactuals."""
        ScoreTable.save_parts(path, self.parts(), self.record, verdicts)


def _chunk_size(attributor: FittedAttributor, image_shape: tuple[int, int, int]) -> int:
    bytes_per_query = 4 * math.prod(image_shape) + attributor.bytes_per_query()
    return max(1, min(CHUNK_QUERIES, CHUNK_BYTES // bytes_per_query))
