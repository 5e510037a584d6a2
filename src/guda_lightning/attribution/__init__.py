"""Attributors: from a full model, data and a grouping to query × group scores."""

from guda_lightning.attribution.attributor import Attributor
from guda_lightning.attribution.coalitions import CoalitionAttributor
from guda_lightning.attribution.counterfactual import CounterfactualAttributor
from guda_lightning.attribution.guidance import GuidanceAttributor
from guda_lightning.attribution.operators import elbo_attributor
from guda_lightning.attribution.racing import RacingAttributor
from guda_lightning.attribution.scoring import Scoring, score_table, shared_errors, squared_errors
from guda_lightning.attribution.similarity import PixelSimilarity
from guda_lightning.attribution.stored import stored_errors, table_of_draw

__all__ = [
    "Attributor",
    "CoalitionAttributor",
    "CounterfactualAttributor",
    "GuidanceAttributor",
    "PixelSimilarity",
    "RacingAttributor",
    "Scoring",
    "elbo_attributor",
    "score_table",
    "shared_errors",
    "squared_errors",
    "stored_errors",
    "table_of_draw",
]
