"""Attributors: from a full model, data and a grouping to query × group scores."""

from guda_lightning.attribution.attributor import Attributor, CounterfactualAttributor
from guda_lightning.attribution.scoring import Scoring, score_table, squared_errors

__all__ = ["Attributor", "CounterfactualAttributor", "Scoring", "score_table", "squared_errors"]
