"""Attributors: from a full model, data and a grouping to query × group scores."""

from guda_lightning.attribution.attributor import Attributor
from guda_lightning.attribution.coalitions import CoalitionAttributor
from guda_lightning.attribution.counterfactual import CounterfactualAttributor
from guda_lightning.attribution.guidance import GuidanceAttributor
from guda_lightning.attribution.operators import elbo_attributor
from guda_lightning.attribution.racing import RacingAttributor
from guda_lightning.attribution.scoring import shared_errors, squared_errors
from guda_lightning.attribution.similarity import PixelSimilarity

__all__ = [
    "Attributor",
    "CoalitionAttributor",
    "CounterfactualAttributor",
    "GuidanceAttributor",
    "PixelSimilarity",
    "RacingAttributor",
    "elbo_attributor",
    "shared_errors",
    "squared_errors",
]
