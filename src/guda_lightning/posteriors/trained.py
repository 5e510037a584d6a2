"""``TrainedClassifier``: a stored classifier whose groups can change, as it keeps moments of its features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from guda_lightning.data import GroupDataModule
from guda_lightning.data.grouping import Grouping
from guda_lightning.errors import ConfigError, StoreError
from guda_lightning.functional.schedule import NoiseSchedule
from guda_lightning.posteriors.classifier import refuse_determined
from guda_lightning.posteriors.classifier_posterior import ClassifierPosterior
from guda_lightning.posteriors.feature_moments import FeatureMoments, split_moments
from guda_lightning.posteriors.opening import Opening
from guda_lightning.posteriors.record import PosteriorRecord
from guda_lightning.posteriors.store import PosteriorStore
from guda_lightning.posteriors.stored_classifier import open_classifier
from guda_lightning.posteriors.tempering import NoiseLevel, entropy_of

RECALIBRATED: Final = "recalibrated"
CLASSIFIERS = ("classifier", RECALIBRATED)  # the kinds that are classifiers


@dataclass(frozen=True, kw_only=True)
class TrainedClassifier:
    """A stored classifier with the moments of its features.

    Attributes:
        posterior: The classifier.
        record: How it was made.
        moments: Of its features.
    """

    posterior: ClassifierPosterior
    record: PosteriorRecord
    moments: FeatureMoments

    @property
    def levels(self) -> tuple[NoiseLevel, ...]:
        """How well it does on held-out samples."""
        return tuple(NoiseLevel(**level) for level in self.record.levels)

    @property
    def explained(self) -> float:
        """See ``explained``, of its own samples."""
        return explained(self.levels, torch.bincount(self.moments.atom))

    @property
    def trained_explained(self) -> float:
        """What the classifier that was trained explains of its own groups, where this one goes back to it."""
        return float(self.record.hparams.get("base_explained", self.explained))

    def tells(self, grouping: Grouping) -> bool:
        """Whether it tells these very groups apart."""
        return self.record.grouping_hash == grouping.hash

    @staticmethod
    def explained_by(store: PosteriorStore, record: PosteriorRecord) -> float:
        """See ``explained``, of a stored classifier and its own samples, without building it.

        Raises:
            StoreError: It is damaged, or keeps no moments.
        """
        weights, _ = store.load(record.key, expect=None)
        moments = split_moments(weights)[1]
        if moments is None or not record.levels:
            raise _none(store, [record])
        levels = tuple(NoiseLevel(**level) for level in record.levels)
        return explained(levels, torch.bincount(moments.atom))

    @classmethod
    def open(
        cls,
        store: PosteriorStore,
        schedule: NoiseSchedule,
        data: GroupDataModule,
        conditional: bool,
        device: torch.device | str = "cpu",
        *,
        first_hand: bool = False,
    ) -> TrainedClassifier:
        """The classifier of a store that explains most of its groups: of today's, else whatever they are.

        Args:
            store: The store.
            schedule: The noise schedule that it must have been trained on.
            data: The training data under today's groups.
            conditional: Whether the full model takes labels or prompts.
            device: Where to put it.
            first_hand: Whether to leave out what was recalibrated from another one of this store.

        Raises:
            StoreError: There is none, or none with moments, or it was made with another noise schedule.
            ConfigError: It takes other images or labels, or these tell the groups.
        """
        records = [record for record in store.records() if record.kind in CLASSIFIERS]
        if first_hand:
            there = {record.weights_hash for record in records}
            records = [record for record in records if record.hparams.get("base") not in there]
        found: list[TrainedClassifier] = []
        for record in records:
            opening = Opening.of(store, record.key, schedule, data, device)
            moments = split_moments(opening.weights)[1]
            if moments is None or not record.levels:
                continue
            _refuse_others(store, record, schedule, data)
            found.append(cls(posterior=open_classifier(opening), record=record, moments=moments))
        if not found:
            raise _none(store, records)
        best = max(found, key=lambda one: (one.tells(data.grouping), one.explained))
        _refuse_labels(best.posterior, data, conditional)
        return best


def explained(levels: Sequence[NoiseLevel], sizes: Tensor) -> float:
    """What a classifier explains of the entropy of its classes' frequencies, over all noise levels; 1: all.

    ``1 − mean cross-entropy / entropy``; below 0 for one that is worse than the frequencies.

    Args:
        levels: How well it does at each.
        sizes: ``[classes]`` samples of each class.
    """
    entropy = entropy_of(sizes)
    if entropy == 0:
        return 1.0  # one class: there is nothing to say
    return 1 - sum(level.cross_entropy for level in levels) / len(levels) / entropy


def _refuse_others(
    store: PosteriorStore, record: PosteriorRecord, schedule: NoiseSchedule, data: GroupDataModule
) -> None:
    """Refuse a classifier of other images or another noise schedule."""
    if record.schedule_hash != schedule.hash:
        raise StoreError(
            f"{store.described(record.key)} was trained on another noise schedule",
            found=f"schedule {record.schedule_hash[:16]}",
            expected=f"schedule {schedule.hash[:16]} of the full model",
            fix="name the run folder of a model with the same noise schedule, or run guda guide",
        )
    shape = tuple(record.hparams["image_shape"])
    if shape != data.input_shape:
        raise ConfigError(
            f"{store.described(record.key)} takes other images",
            found=f"images of shape {data.input_shape}",
            expected=f"images of shape {shape}",
            fix="name the run folder of a model of such images, or run guda guide",
        )


def _refuse_labels(posterior: ClassifierPosterior, data: GroupDataModule, conditional: bool) -> None:
    """Refuse a classifier that takes other labels than the full model, and groups that labels tell."""
    network = posterior.network.condition
    labels = network.num_embeddings if isinstance(network, torch.nn.Embedding) else 0
    prompts = data.prompts is not None
    expected = data.num_classes if conditional and not prompts else 0
    if labels != expected or (network is not None and not labels) != prompts:
        raise ConfigError(
            "the trained classifier takes other labels than the full model",
            found=f"{labels or 'no'} class labels" if not (network and not labels) else "prompts",
            expected="prompts" if prompts else f"{expected or 'no'} class labels",
            fix="name the run folder of a model with the same labels, or run guda guide",
        )
    if prompts or conditional:
        refuse_determined(torch.from_numpy(data.grouping.atoms()[1]), data.labels, by_prompts=prompts)


def _none(store: PosteriorStore, records: Sequence[PosteriorRecord]) -> StoreError:
    """Why no classifier of a store can be given other groups."""
    if not records:
        return StoreError(
            f"{store.root} holds no classifier",
            found="; ".join(sorted({record.kind for record in store.records()})) or "no posterior",
            expected="the classifier of a run, whose groups are to change",
            fix="run guda guide on that run first",
        )
    first = records[0]
    if first.levels:
        return StoreError(
            f"{store.described(first.key)} keeps no moments of its features",
            found=f"a classifier of guda-lightning {first.versions.get('guda_lightning', '?')}",
            expected="one that says how the features of each group are distributed",
            fix=f"remove {store.path(first.key)}, and run guda guide on that run again",
        )
    return StoreError(
        f"{store.described(first.key)} was never tested",
        found="no held-out samples",
        expected="a classifier that others can be compared with",
        fix="run guda guide on that run with --classifier.held_out 0.1",
    )
