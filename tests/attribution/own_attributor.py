"""An attributor that a user would write: one file, named by class_path in a YAML."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from guda_lightning.attribution import AttributionContext, Attributor, FittedAttributor
from guda_lightning.data import query_hash
from guda_lightning.scores import ScoreRecord, ScoreTable
from guda_lightning.scores.kinds import Custom
from guda_lightning.types import Queries


@dataclass(frozen=True)
class Brightness(Attributor):
    """Minus the distance of a query's brightness to the mean brightness of a group.

    Args:
        power: Of the distance.
    """

    power: float = 1.0

    def fit(self, context: AttributionContext) -> FittedBrightness:
        """Measure every group."""
        data, grouping = context.data, context.grouping
        assert data is not None and grouping is not None
        groups = tuple(name for name in grouping.names if grouping.size(name))
        means = torch.stack([data.seen_images(grouping.forget([name])).mean() for name in groups])
        return FittedBrightness(
            groups=groups, method="brightness", means=means, power=self.power, grouping_hash=grouping.hash
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class FittedBrightness(FittedAttributor):
    """Mean brightness of each group, ``[groups]``."""

    means: Tensor
    power: float
    grouping_hash: str

    def score(self, queries: Queries) -> ScoreTable:
        """Score every query against every group."""
        distance = (queries.images.flatten(1).mean(dim=1)[:, None] - self.means).abs() ** self.power
        return ScoreTable.from_matrix(
            -distance,
            torch.zeros_like(distance),
            query_ids=queries.ids,
            groups=self.groups,
            n_draws=1,
            method=self.method,
            weighting="brightness",
            seed=self.seed,
            record=self.record(queries),
        )

    def record(self, queries: Queries) -> ScoreRecord:
        """What identifies the scores."""
        return ScoreRecord(
            Custom(entries={"power": self.power}),
            query_hash=query_hash(queries),
            grouping_hash=self.grouping_hash,
        )
