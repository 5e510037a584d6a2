"""Attributors: from a full model, data and a grouping to query × group scores."""

from guda_lightning.attribution.ablation import AblationEnsemble, FittedEnsemble
from guda_lightning.attribution.attributor import AttributionContext, Attributor, FittedAttributor
from guda_lightning.attribution.class_probability import ClassProbability
from guda_lightning.attribution.coalitions import CoalitionAttributor
from guda_lightning.attribution.counterfactual import CounterfactualAttributor, GuidanceAttributor
from guda_lightning.attribution.elbo import FittedELBOAttributor
from guda_lightning.attribution.encoders import CLIPImages, DINOv2, Encoder
from guda_lightning.attribution.nda import NDA
from guda_lightning.attribution.racing import FittedRace, RacingAttributor
from guda_lightning.attribution.scoring import shared_errors, squared_errors
from guda_lightning.attribution.screening import ScreenedAttributor, Screening
from guda_lightning.attribution.set_properties import Brightness, Contrast, SetProperty
from guda_lightning.attribution.similarity import FeatureSimilarity, PixelSimilarity
from guda_lightning.attribution.trivial import GroupSize, RandomScores

__all__ = [
    "NDA",
    "AblationEnsemble",
    "AttributionContext",
    "Attributor",
    "Brightness",
    "CLIPImages",
    "ClassProbability",
    "CoalitionAttributor",
    "Contrast",
    "CounterfactualAttributor",
    "DINOv2",
    "Encoder",
    "FeatureSimilarity",
    "FittedAttributor",
    "FittedELBOAttributor",
    "FittedEnsemble",
    "FittedRace",
    "GroupSize",
    "GuidanceAttributor",
    "PixelSimilarity",
    "RacingAttributor",
    "RandomScores",
    "ScreenedAttributor",
    "Screening",
    "SetProperty",
    "shared_errors",
    "squared_errors",
]
