"""Types shared by every layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Weighting = Literal["elbo", "uniform", "middle"]
PredictionType = Literal["epsilon", "v_prediction", "sample", "flow"]


@dataclass(frozen=True)
class Queries:
    """Samples to explain.

    Attributes:
        ids: One stable, unique name per query.
        images: ``[queries, channels, height, width]``, float32 in [-1, 1].
        labels: ``[queries]`` int64 class labels for a label-conditional model, else None.
    """

    ids: tuple[str, ...]
    images: Tensor
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Sequence[int]) -> Queries:
        """Some of the queries."""
        labels = None if self.labels is None else self.labels[list(rows)]
        return Queries(tuple(self.ids[row] for row in rows), self.images[list(rows)], labels)
