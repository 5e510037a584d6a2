"""Scoring a few queries at a time, where each takes long: who interrupts it loses only those."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from guda_lightning.attribution.attributor import FittedAttributor
from guda_lightning.attribution.scoring import share_of, shared_errors
from guda_lightning.data import query_hash
from guda_lightning.distributed.ranks import Ranks
from guda_lightning.latent.cache import TensorCache
from guda_lightning.types import Queries

if TYPE_CHECKING:
    from typing_extensions import Self

_NAMES = "first", "second"  # what is measured


@dataclass(frozen=True, eq=False, kw_only=True)
class FittedByPieces(FittedAttributor):
    """Scores queries piece by piece.

    Attributes:
        pieces: Folder for what is measured of each piece; None keeps nothing.
    """

    at_once: ClassVar[int] = 8  # queries of a process in a piece
    pieces: Path | None = None

    def keeping(self, folder: Path) -> Self:
        """See ``FittedAttributor.keeping``."""
        return replace(self, pieces=folder)

    def measured(
        self, measure: Callable[[Queries], tuple[Tensor, Tensor]], queries: Queries, ranks: Ranks
    ) -> tuple[Tensor, Tensor]:
        """As ``shared_errors``, but for pieces that are kept.

        Args:
            measure: Any two tensors with the queries two dimensions before the last.
            queries: ``Q`` queries, at least one, the same on all ranks.
            ranks: Who shares them.
        """
        cache, made_from = TensorCache(self.pieces), self._made_from(queries)

        def kept(share: Queries) -> tuple[Tensor, Tensor]:
            key = [made_from, query_hash(share)]
            found = cache.get(key, lambda: dict(zip(_NAMES, measure(share), strict=True)))
            return found[_NAMES[0]], found[_NAMES[1]]

        found = [shared_errors(kept, piece, ranks) for piece in self._split(queries, ranks)]
        first, second = (torch.cat(parts, dim=-3) for parts in zip(*found, strict=True))
        return first, second

    def left(self, queries: Queries, ranks: Ranks) -> int:
        """How many queries are in no piece that is kept, as far as this process knows."""
        if self.pieces is None:
            return len(queries)
        cache, made_from = TensorCache(self.pieces), self._made_from(queries)
        shares = [(len(one), one.take(share_of(len(one), ranks))) for one in self._split(queries, ranks)]
        return sum(size for size, share in shares if not cache.has([made_from, query_hash(share)]))

    def _split(self, queries: Queries, ranks: Ranks) -> Iterator[Queries]:
        size = len(queries) if self.pieces is None else self.at_once * ranks.count
        return (queries.take(rows.tolist()) for rows in torch.arange(len(queries)).split(size))

    def _made_from(self, queries: Queries) -> str:
        """What identifies the scores of any queries but for the queries."""
        return replace(self.record(queries), query_hash=None).hash
