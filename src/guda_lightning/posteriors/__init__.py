"""P(group | noised sample), trained or not, and every counterfactual from it."""

from guda_lightning.posteriors.classifier import ClassifierPlan, GroupClassifier
from guda_lightning.posteriors.classifier_posterior import ClassifierPosterior
from guda_lightning.posteriors.image_kernel import ImageKernel
from guda_lightning.posteriors.patch_kernel import KernelLevel, PatchKernel
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
from guda_lightning.posteriors.windows import fit_windows

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
    "ImageKernel",
    "KernelLevel",
    "NoiseLevel",
    "PatchKernel",
    "StoredPosterior",
    "fit_windows",
    "guided",
    "network_hparams",
    "open_posterior",
    "weights_of",
]
