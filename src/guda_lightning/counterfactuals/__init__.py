"""Counterfactuals on disk: models that never saw a group, each with the record of how it was made."""

from guda_lightning.counterfactuals.record import (
    ENSEMBLE,
    RETRAIN,
    SUBSETS,
    CounterfactualKey,
    CounterfactualRecord,
)
from guda_lightning.counterfactuals.store import CounterfactualStore

__all__ = [
    "ENSEMBLE",
    "RETRAIN",
    "SUBSETS",
    "CounterfactualKey",
    "CounterfactualRecord",
    "CounterfactualStore",
]
