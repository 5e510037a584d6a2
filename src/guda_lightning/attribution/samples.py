"""Training samples in the form of queries, so that both are noised alike."""

from __future__ import annotations

from guda_lightning.data import GroupDataModule
from guda_lightning.data.grouping import Indices
from guda_lightning.data.images import as_input
from guda_lightning.types import Queries


def training_samples(data: GroupDataModule, indices: Indices, conditional: bool) -> Queries:
    """Some training samples as queries named by their ids; their ``images`` are what the model takes.

    Args:
        data: The training data.
        indices: Their positions.
        conditional: Whether the model takes the samples' labels.
    """
    labels = data.labels[indices] if conditional and data.labels is not None else None
    return Queries(tuple(data.ids[index] for index in indices), as_input(data.inputs[indices]), labels)
