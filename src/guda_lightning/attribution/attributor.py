"""What every attributor is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch

from guda_lightning.data.grouping import Grouping
from guda_lightning.diffusion import FullModel
from guda_lightning.distributed.ranks import Ranks
from guda_lightning.errors import QueryError
from guda_lightning.scores import ScoreTable
from guda_lightning.types import Queries

_ROW_BYTES = 512  # of a score under three weightings, while its table is built


class Attributor(ABC):
    """Anything that scores query × group.

    Attributes:
        method: Its name in score tables and their files, known after ``fit``.
        seed: Seed of what it scores with.
        fitted_groups: The groups that ``score`` will score, in order, known after ``fit``.
    """

    method: str
    seed: int = 0
    fitted_groups: tuple[str, ...]

    @abstractmethod
    def fit(self, full: FullModel, data: Any, grouping: Grouping | None) -> Attributor:
        """Take the full model, its training data and their groups.

        Args:
            full: The full model.
            data: The datamodule of the training data, for attributors that look at it.
            grouping: Who belongs to which group; an attributor whose groups are stored may do without.
        """

    @abstractmethod
    def score(self, queries: Queries) -> ScoreTable:
        """Score every query against every group."""

    @abstractmethod
    def record(self, queries: Queries) -> dict[str, object]:
        """What identifies the scores of these queries, as JSON values.

        Of other queries, its entry ``query_hash`` differs and nothing else.
        """

    def evaluations(self, queries: Queries) -> int:
        """Network evaluations that scoring these queries still needs, at most."""
        return 0

    def bytes_per_query(self) -> int:
        """About how much memory ``score`` needs for every query besides its picture, known after ``fit``."""
        return _ROW_BYTES * len(self.fitted_groups)

    def work_on(self, device: torch.device, on_batch: Callable[[int], None]) -> None:  # noqa: B027
        """Say where to compute, and what is to be told the number of evaluations after every batch."""

    def share_with(self, ranks: Ranks) -> None:  # noqa: B027
        """Say which processes score the same queries, so that each does a part; all get all scores.

        An attributor that does not look at this scores everything in each of them.
        """

    def notes(self) -> list[str]:
        """What a user should know about the last scoring besides its scores."""
        return []


def refuse_no_queries(queries: Queries) -> None:
    """Refuse to score nothing.

    Raises:
        QueryError: There are no queries.
    """
    if not len(queries):
        raise QueryError(
            "there is nothing to score",
            found="0 queries",
            expected="at least one image",
            fix="run `guda sample`, or pass --queries FILE|FOLDER",
        )
