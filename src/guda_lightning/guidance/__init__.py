"""Every counterfactual from one classifier of noised samples."""

from guda_lightning.guidance.classifier import ClassifierPlan, GroupClassifier
from guda_lightning.guidance.posterior import GroupPosterior, guided
from guda_lightning.guidance.stored import (
    StoredPosterior,
    find_classifier,
    guidance_key,
    network_hparams,
    open_posterior,
    weights_of,
)
from guda_lightning.guidance.tempering import NoiseLevel

__all__ = [
    "ClassifierPlan",
    "GroupClassifier",
    "GroupPosterior",
    "NoiseLevel",
    "StoredPosterior",
    "find_classifier",
    "guidance_key",
    "guided",
    "network_hparams",
    "open_posterior",
    "weights_of",
]
