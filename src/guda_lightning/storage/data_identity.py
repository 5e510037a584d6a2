"""What identifies training data in records."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DataIdentity:
    """What a full model remembers of its training data, and refuses to find otherwise.

    Attributes:
        input_shape: Channels, height and width of what the model takes of them.
        data_hash: Hash of their ids and of what any model sees of them.
        grouping_hash: Hash of their grouping.
        labels_hash: Hash of their class labels, which a conditional model alone sees; None: they have none.
    """

    input_shape: tuple[int, int, int]
    data_hash: str
    grouping_hash: str
    labels_hash: str | None = None
