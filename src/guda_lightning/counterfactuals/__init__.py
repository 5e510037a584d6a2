"""Counterfactuals on disk: models that never saw a group, each with the record of how it was made."""

from guda_lightning.counterfactuals.record import RETRAIN, CounterfactualKey, CounterfactualRecord
from guda_lightning.counterfactuals.store import CounterfactualStore

__all__ = ["RETRAIN", "CounterfactualKey", "CounterfactualRecord", "CounterfactualStore"]
