"""What the store keeps of a classifier, and the classifier that follows from it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from guda_lightning.posteriors.classifier import GroupClassifier
from guda_lightning.posteriors.classifier_posterior import ClassifierPosterior
from guda_lightning.posteriors.feature_moments import FeatureMoments, split_moments
from guda_lightning.posteriors.network import NoisyClassifier
from guda_lightning.posteriors.opening import Opening
from guda_lightning.posteriors.plan import ClassifierPlan


def network_hparams(plan: ClassifierPlan, image_shape: tuple[int, int, int]) -> dict[str, Any]:
    """What a record says of a classifier, so that it can be built again.

    Raises:
        ConfigError: ``image_shape`` cannot be halved as often as the plan says.
    """
    plain = {**asdict(plan), "channels": list(plan.channels_for(image_shape))}
    return {"classifier": plain, "image_shape": list(image_shape)}


def weights_of(classifier: GroupClassifier) -> dict[str, Tensor]:
    """All that the store keeps of a classifier: weights, temperatures, moments, and its atoms."""
    return stored_tensors(classifier.posterior, classifier.moments)


def stored_tensors(posterior: ClassifierPosterior, moments: FeatureMoments | None) -> dict[str, Tensor]:
    """All that the store keeps: atoms are those of the groups by sorted name."""
    order = sorted(range(len(posterior.groups)), key=posterior.groups.__getitem__)
    return {
        **posterior.network.state_dict(),
        "temperatures": posterior.temperatures,
        "atoms": posterior.atoms[:, order].to(torch.uint8),
        **({} if moments is None else moments.to_tensors()),
    }


def open_classifier(opening: Opening) -> ClassifierPosterior:
    """The classifier of a record and its weights."""
    weights, _ = split_moments(opening.weights)
    hparams = opening.record.hparams
    temperatures, atoms = weights.pop("temperatures"), weights.pop("atoms").bool()
    plan = hparams["classifier"]
    labels, prompts = weights.get("condition.weight"), weights.get("condition.1.weight")
    network = NoisyClassifier(
        tuple(hparams["image_shape"]),
        len(atoms),
        plan["channels"],
        plan["width"],
        plan["features"],
        0 if labels is None else len(labels),
        0 if prompts is None else prompts.shape[1],
    )
    network.load_state_dict(weights)
    network.eval().requires_grad_(False).to(opening.device)
    return ClassifierPosterior(
        schedule=opening.schedule,
        atoms=atoms.to(opening.device),
        groups=opening.record.groups,
        network=network,
        temperatures=temperatures.to(opening.device),
        prompts=None if prompts is None else opening.prompts(),
    )
