"""Counterfactuals on disk: models that never saw a group, each with the record of how it was made."""

from guda_lightning.counterfactuals.record import (
    GUIDANCE,
    RETRAIN,
    CounterfactualKey,
    CounterfactualRecord,
    versions,
)
from guda_lightning.counterfactuals.store import CounterfactualStore

__all__ = [
    "GUIDANCE",
    "RETRAIN",
    "CounterfactualKey",
    "CounterfactualRecord",
    "CounterfactualStore",
    "versions",
]
