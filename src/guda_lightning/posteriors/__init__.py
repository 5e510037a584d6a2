"""Every counterfactual from one posterior of groups given a noised sample."""

from guda_lightning.posteriors.classifier import GroupClassifier
from guda_lightning.posteriors.classifier_posterior import ClassifierPosterior
from guda_lightning.posteriors.image_kernel import ImageKernel
from guda_lightning.posteriors.kinds import KINDS, PosteriorName, StoredPosterior, open_posterior
from guda_lightning.posteriors.mixture import Mixture
from guda_lightning.posteriors.patch_kernel import KernelLevel, PatchKernel
from guda_lightning.posteriors.plan import ClassifierPlan
from guda_lightning.posteriors.posterior import Corrections, GroupPosterior, guided, steered
from guda_lightning.posteriors.record import PosteriorKey, PosteriorRecord
from guda_lightning.posteriors.store import GUIDANCE, PosteriorStore
from guda_lightning.posteriors.stored_classifier import network_hparams, weights_of
from guda_lightning.posteriors.tempering import NoiseLevel
from guda_lightning.posteriors.windows import fit_windows

__all__ = [
    "GUIDANCE",
    "KINDS",
    "ClassifierPlan",
    "ClassifierPosterior",
    "Corrections",
    "GroupClassifier",
    "GroupPosterior",
    "ImageKernel",
    "KernelLevel",
    "Mixture",
    "NoiseLevel",
    "PatchKernel",
    "PosteriorKey",
    "PosteriorName",
    "PosteriorRecord",
    "PosteriorStore",
    "StoredPosterior",
    "fit_windows",
    "guided",
    "network_hparams",
    "open_posterior",
    "steered",
    "weights_of",
]
