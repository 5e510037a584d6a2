"""The run's own queries, to try the page with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from guda_lightning.data import QueryFolder
from guda_lightning.errors import QueryError
from guda_lightning.storage.files import read_json
from guda_lightning.storage.runs import RunFolder
from guda_lightning.storage.stored import RECORD
from guda_lightning.types import Queries

MAX_EXAMPLES = 24


class Noise(NamedTuple):
    """What a query was drawn from, as ``guda sample`` draws it.

    Attributes:
        index: Its number.
        seed: Of all of them.
        steps: Denoising steps.
        prompt_guidance: Strength of guidance by the prompt.
    """

    index: int
    seed: int
    steps: int
    prompt_guidance: float


@dataclass(frozen=True, eq=False)
class Examples:
    """The first queries of a run.

    Attributes:
        queries: At most ``MAX_EXAMPLES``; None where there are none.
        noise: Of each, where the run's full model drew them.
    """

    queries: Queries | None = None
    noise: tuple[Noise, ...] = ()

    @classmethod
    def of(cls, run: RunFolder, image_shape: tuple[int, int, int], full_hash: str) -> Examples:
        """Those of RUN/queries.

        Args:
            run: The run folder.
            image_shape: Channels, height and width of a picture.
            full_hash: Hash of the full model's weights.

        Raises:
            QueryError: They cannot be read.
        """
        if not run.queries.is_dir():
            return cls()
        folder = QueryFolder(run.queries, image_shape)
        rows = range(min(MAX_EXAMPLES, len(folder)))
        record = run.queries / RECORD
        drawn = read_json(record).get("config", {}) if record.is_file() else {}
        if drawn.get("full_hash") != full_hash:
            return cls(folder.load(rows))
        how = drawn["seed"], drawn["steps"], drawn["prompt_guidance"]
        return cls(folder.load(rows), tuple(Noise(row, *how) for row in rows))

    def one(self, query_id: str) -> tuple[Queries, Noise | None]:
        """A query, and what it was drawn from if that is known.

        Raises:
            QueryError: There is none of that name.
        """
        if self.queries is None or query_id not in self.queries.ids:
            raise QueryError(
                "there is no such example",
                found=repr(query_id),
                expected="a query that the page shows",
                fix="load the page again, or drop a picture",
            )
        row = self.queries.ids.index(query_id)
        return self.queries.take([row]), self.noise[row] if self.noise else None
