"""Every counterfactual from one classifier of noised samples."""

from guda_lightning.posteriors.classifier import ClassifierPlan, GroupClassifier
from guda_lightning.posteriors.classifier_posterior import ClassifierPosterior
from guda_lightning.posteriors.posterior import Corrections, GroupPosterior, guided
from guda_lightning.posteriors.store import (
    GUIDANCE,
    ClassifierKey,
    ClassifierRecord,
    ClassifierStore,
    StoredPosterior,
    network_hparams,
    open_posterior,
    weights_of,
)
from guda_lightning.posteriors.tempering import NoiseLevel

__all__ = [
    "GUIDANCE",
    "ClassifierKey",
    "ClassifierPlan",
    "ClassifierPosterior",
    "ClassifierRecord",
    "ClassifierStore",
    "Corrections",
    "GroupClassifier",
    "GroupPosterior",
    "NoiseLevel",
    "StoredPosterior",
    "guided",
    "network_hparams",
    "open_posterior",
    "weights_of",
]
