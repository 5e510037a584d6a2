"""The kinds of posteriors, and how a stored one of each is opened."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal, NamedTuple

import torch

from guda_lightning.data import GroupDataModule
from guda_lightning.errors import StoreError
from guda_lightning.functional.schedule import NoiseSchedule
from guda_lightning.posteriors.classifier_posterior import ClassifierPosterior
from guda_lightning.posteriors.image_kernel import ImageKernel
from guda_lightning.posteriors.mixture import Mixture, weights_of_levels
from guda_lightning.posteriors.opening import Opening
from guda_lightning.posteriors.patch_kernel import KernelLevel, PatchKernel
from guda_lightning.posteriors.posterior import GroupPosterior
from guda_lightning.posteriors.record import PosteriorRecord
from guda_lightning.posteriors.store import GUIDANCE, PosteriorStore
from guda_lightning.posteriors.stored_classifier import open_classifier
from guda_lightning.storage.provenance import Provenance

PosteriorName = Literal["guidance", "classifier", "image_kernel", "patch_kernel", "recalibrated"]


class Kind(NamedTuple):
    """A kind of posterior.

    Attributes:
        posterior: What one is.
        open: How a stored one is opened.
    """

    posterior: type[GroupPosterior]
    open: Callable[[Opening], GroupPosterior]


class StoredPosterior(NamedTuple):
    """A posterior that was read from a store.

    Attributes:
        posterior: The posterior.
        record: How it was made; its ``weights_hash`` identifies it.
    """

    posterior: GroupPosterior
    record: PosteriorRecord


def open_posterior(
    store: PosteriorStore,
    kind: str,
    schedule: NoiseSchedule,
    *,
    seed: int,
    hparams: str | None = None,
    data: GroupDataModule | None = None,
    expect: Provenance | None = None,
    device: torch.device | str = "cpu",
) -> StoredPosterior:
    """Read a posterior of a store.

    Args:
        store: The store.
        kind: Which of ``KINDS``.
        schedule: The full model's noise schedule.
        seed: Seed of its training.
        hparams: Start of the hash of its hyper-parameters, where the store holds several.
        data: The full model's training data, which kernels are computed from.
        expect: What it must have been made from; None: anything.
        device: Where to put it.

    Raises:
        StoreError: There is none, there are several, or it is damaged or made from something else.
        ConfigError: It is computed from the training data, and there are none.
    """
    key = store.find(kind, seed=seed, hparams=hparams).key
    opening = Opening.of(store, key, schedule, data, device, expect)
    return StoredPosterior(KINDS[kind].open(opening), opening.record)


def _image_kernel(opening: Opening) -> GroupPosterior:
    return ImageKernel.of(opening.training_data(), opening.schedule, opening.device)


def _patch_kernel(opening: Opening) -> GroupPosterior:
    levels = tuple(KernelLevel(**level) for level in opening.record.levels)
    return PatchKernel.of(opening.training_data(), opening.schedule, levels, opening.device)


def _mixture(opening: Opening) -> GroupPosterior:
    members = tuple(_member(opening, **member) for member in opening.record.members)
    weights = weights_of_levels(opening.record.levels, len(opening.schedule))
    return Mixture(
        schedule=opening.schedule,
        atoms=members[0].atoms,
        groups=members[0].groups,
        members=members,
        weights=weights.to(opening.device),
    )


def _member(opening: Opening, name: str, hash: str) -> GroupPosterior:
    """A posterior that a mixture is made of.

    Raises:
        StoreError: It is not there, or another one is.
    """
    for record in opening.store.records():
        if (record.key.folder_name, record.weights_hash) == (name, hash):
            weights, _ = opening.store.load(record.key, expect=opening.expect)
            return KINDS[record.kind].open(replace(opening, record=record, weights=weights))
    raise StoreError(
        f"{opening.store.described(opening.record.key)} lacks a part",
        found=f"no {name} with the hash {hash[:8]} in {opening.store.root}",
        expected="all posteriors that it is made of",
        fix=f"{opening.store.command(opening.record.key)}, which makes what is missing",
    )


# A new kind is one entry here and one file with its posterior.
KINDS: Mapping[str, Kind] = {
    GUIDANCE: Kind(Mixture, _mixture),
    "classifier": Kind(ClassifierPosterior, open_classifier),
    "image_kernel": Kind(ImageKernel, _image_kernel),
    "patch_kernel": Kind(PatchKernel, _patch_kernel),
    "recalibrated": Kind(ClassifierPosterior, open_classifier),
}
