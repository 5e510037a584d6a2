"""Counterfactuals on disk: models that never saw a group, each with the record of how it was made."""

from guda_lightning.counterfactuals.record import RETRAIN, SUBSETS, CounterfactualKey, CounterfactualRecord
from guda_lightning.counterfactuals.store import CounterfactualStore

__all__ = ["RETRAIN", "SUBSETS", "CounterfactualKey", "CounterfactualRecord", "CounterfactualStore"]
