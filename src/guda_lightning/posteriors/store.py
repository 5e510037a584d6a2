"""The classifier on disk: stored, checked and refused like any counterfactual."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from torch import Tensor

from guda_lightning.counterfactuals import (
    GUIDANCE,
    CounterfactualKey,
    CounterfactualRecord,
    CounterfactualStore,
)
from guda_lightning.errors import StoreError
from guda_lightning.functional.schedule import NoiseSchedule
from guda_lightning.posteriors.classifier import ClassifierPlan, GroupClassifier
from guda_lightning.posteriors.network import NoisyClassifier
from guda_lightning.posteriors.posterior import GroupPosterior
from guda_lightning.storage.files import sha256_json


class StoredPosterior(NamedTuple):
    """A classifier that was read from a store.

    Attributes:
        posterior: The classifier.
        record: How it was made.
        hash: Identity of its weights.
    """

    posterior: GroupPosterior
    record: CounterfactualRecord
    hash: str


def network_hparams(plan: ClassifierPlan, image_shape: tuple[int, int, int]) -> dict[str, Any]:
    """What a record says of a classifier, so that it can be built again.

    Raises:
        ConfigError: As ``ClassifierPlan.channels_for``.
    """
    plain = {**asdict(plan), "channels": list(plan.channels_for(image_shape))}
    return {"classifier": plain, "image_shape": list(image_shape)}


def guidance_key(groups: tuple[str, ...], seed: int, hparams: Mapping[str, Any]) -> CounterfactualKey:
    """What tells one classifier from another in a store."""
    return CounterfactualKey(GUIDANCE, groups, seed, sha256_json(dict(hparams)))


def weights_of(classifier: GroupClassifier) -> dict[str, Tensor]:
    """All that the store keeps of a classifier: weights, temperatures, and its atoms by sorted group name."""
    order = sorted(range(len(classifier.groups)), key=classifier.groups.__getitem__)
    temperatures: Any = classifier.temperatures
    return {
        **classifier.network.state_dict(),
        "temperatures": temperatures,
        "atoms": classifier.atoms[:, order].to(torch.uint8),
    }


def find_classifier(store: CounterfactualStore, *, seed: int, hparams: str | None) -> CounterfactualRecord:
    """The record of the classifier of a store.

    Args:
        store: The store.
        seed: Seed of its training.
        hparams: Start of the hash of its hyper-parameters, where the store holds several.

    Raises:
        StoreError: There is none, or there are several.
    """
    every = [record for record in store.records() if record.operator == GUIDANCE]
    found = [r for r in every if r.seed == seed and r.hparams_hash.startswith(hparams or "")]
    if len(found) != 1:
        listed = [f"seed {r.seed}, hyper-parameters {r.hparams_hash[:8]}" for r in (found or every)]
        wanted = f"seed {seed}" + (f", hyper-parameters {hparams}" if hparams else "")
        raise StoreError(
            f"which classifier of {store.root}?" if found else f"there is no classifier in {store.root}",
            found="; ".join(listed) or "none of any kind",
            expected=f"one with {wanted}",
            fix="pass --hparams with the first digits of one hash" if found else "run guda guide",
        )
    return found[0]


def open_posterior(
    store: CounterfactualStore,
    schedule: NoiseSchedule,
    *,
    seed: int,
    hparams: str | None,
    expect: Mapping[str, str],
    device: torch.device | str = "cpu",
) -> StoredPosterior:
    """Read the classifier of a store.

    Args:
        store: The store.
        schedule: The full model's noise schedule.
        seed: As in ``find_classifier``.
        hparams: Likewise.
        expect: What it must have been made from, as in ``CounterfactualStore.check``.
        device: Where to put it.

    Raises:
        StoreError: There is none, there are several, or it is damaged or made from something else.
    """
    key = find_classifier(store, seed=seed, hparams=hparams).key
    weights, record = store.load(key, expect=expect)
    temperatures, atoms = weights.pop("temperatures"), weights.pop("atoms").bool()
    plan = record.hparams["classifier"]
    labels = weights.get("label.weight")
    network = NoisyClassifier(
        tuple(record.hparams["image_shape"]),
        len(atoms),
        plan["channels"],
        plan["width"],
        plan["features"],
        0 if labels is None else len(labels),
    )
    network.load_state_dict(weights)
    network.eval().requires_grad_(False).to(device)
    posterior = GroupPosterior(network, schedule, atoms.to(device), record.groups, temperatures.to(device))
    return StoredPosterior(posterior, record, record.weights_hash)
