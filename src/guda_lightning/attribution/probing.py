"""What counterfactuals lose on training samples, measured without an oracle, for their verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from guda_lightning.attribution.elbo import FittedELBOAttributor
from guda_lightning.data import GroupDataModule
from guda_lightning.data.images import as_input
from guda_lightning.errors import ConfigError
from guda_lightning.functional.schedule import NoiseSchedule
from guda_lightning.scores import Evidence, Rise, Scoring
from guda_lightning.types import Queries

SAMPLES = 12  # of every group; of all others together, twice as many
LEVELS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)  # of the scored timesteps


class Probes(NamedTuple):
    """Training samples that all counterfactuals of a run are tried on.

    Attributes:
        samples: ``P`` samples as queries, some of every group.
        members: ``[P, groups]`` bool, which of them each counterfactual was to forget.
        others: Group to the rows of its samples, for every single group.
    """

    samples: Queries
    members: Tensor
    others: dict[str, Tensor]

    @classmethod
    def of(cls, data: GroupDataModule, groups: Sequence[str], conditional: bool) -> Probes:
        """The same samples for the same data, whatever the groups.

        Args:
            data: The training data of the full model.
            groups: What the counterfactuals forget, such as ``3`` or ``3+7``.
            conditional: Whether the model takes the samples' labels.
        """
        picked = {name: rows for name, rows in data.picked(SAMPLES).items() if len(rows)}
        indices = np.unique(np.concatenate(list(picked.values())))
        labels = data.labels[indices] if conditional and data.labels is not None else None
        samples = Queries(tuple(data.ids[i] for i in indices), as_input(data.inputs[indices]), labels)
        grouping = data.grouping
        forgotten = [np.isin(indices, grouping.forget(grouping.coalition(name))) for name in groups]
        members = torch.from_numpy(np.stack(forgotten, axis=1))
        others = {name: torch.from_numpy(np.searchsorted(indices, rows)) for name, rows in picked.items()}
        return cls(samples, members, others)


def probe_scoring(schedule: NoiseSchedule, like: Scoring) -> Scoring:
    """One draw at every middle noise level, in the batches and the precision of a scoring."""
    return replace(like, seed=0, grid=(50, 501, 90), draws=1)
