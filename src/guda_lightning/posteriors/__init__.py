"""Every counterfactual from one classifier of noised samples."""

from guda_lightning.posteriors.classifier import ClassifierPlan, GroupClassifier
from guda_lightning.posteriors.posterior import GroupPosterior, guided
from guda_lightning.posteriors.store import (
    StoredPosterior,
    find_classifier,
    guidance_key,
    network_hparams,
    open_posterior,
    weights_of,
)
from guda_lightning.posteriors.tempering import NoiseLevel

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
