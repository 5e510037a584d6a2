"""Classifiers on disk, beside the counterfactuals of a run: ``ROOT/classifiers``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from guda_lightning.errors import StoreError
from guda_lightning.functional.schedule import NoiseSchedule
from guda_lightning.posteriors.classifier import ClassifierPlan, GroupClassifier
from guda_lightning.posteriors.classifier_posterior import ClassifierPosterior
from guda_lightning.posteriors.network import NoisyClassifier
from guda_lightning.storage.files import read_json, sha256_json
from guda_lightning.storage.provenance import Provenance, versions
from guda_lightning.storage.stored import RECORD, WeightsRecord, WeightStore

GUIDANCE = "guidance"  # what the counterfactuals that follow from a classifier are called
_FOLDER = "classifiers"  # in the folder of a store


@dataclass(frozen=True)
class ClassifierKey:
    """What tells one classifier from another in a store.

    Attributes:
        groups: Names of the groups that it tells apart; kept sorted.
        seed: Seed of its training.
        hparams_hash: ``sha256_json`` of its hyper-parameters.
    """

    groups: tuple[str, ...]
    seed: int
    hparams_hash: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", tuple(sorted(self.groups)))

    @property
    def folder_name(self) -> str:
        """A name that is unique and safe."""
        return f"classifier-{sha256_json(asdict(self))[:12]}"


@dataclass(frozen=True, kw_only=True)
class ClassifierRecord(WeightsRecord):
    """How a classifier was made; ``groups`` are those that it tells apart.

    Attributes:
        levels: Accuracy, calibration error and temperature of each noise level, one entry a level.
    """

    levels: list[dict[str, Any]]

    @classmethod
    def of(
        cls,
        key: ClassifierKey,
        hparams: Mapping[str, Any],
        provenance: Provenance,
        *,
        seconds: float,
        steps: int,
        network_evaluations: int,
        stopped: str | None = None,
        levels: Sequence[Mapping[str, Any]] = (),
    ) -> ClassifierRecord:
        """The record of a classifier that was trained just now, by the installed versions.

        Args:
            key: What it is stored under.
            hparams: Every hyper-parameter, as JSON values; the key has their hash.
            provenance: What it was made from, with the grouping.
            seconds: Wall-clock time of its training.
            steps: Optimizer steps.
            network_evaluations: Samples that all processes passed through it, forward passes only.
            stopped: What has ended its training where that was no count of steps.
            levels: Accuracy, calibration error and temperature of each noise level.
        """
        return cls(
            groups=key.groups,
            seed=key.seed,
            hparams=dict(hparams),
            levels=[dict(level) for level in levels],
            versions=versions(),
            seconds=seconds,
            steps=steps,
            network_evaluations=network_evaluations,
            stopped=stopped,
            full_hash=provenance.full_hash,
            schedule_hash=provenance.schedule_hash,
            grouping_hash=provenance.grouping_hash,
        )

    @property
    def key(self) -> ClassifierKey:
        """What the classifier is stored under."""
        return ClassifierKey(self.groups, self.seed, self.hparams_hash)


class ClassifierStore(WeightStore[ClassifierKey, ClassifierRecord]):
    """The classifiers of a store.

    Args:
        root: Folder of the store, RUN/store; classifiers lie in its subfolder ``classifiers``.
    """

    record_type = ClassifierRecord

    def __init__(self, root: str | Path) -> None:
        super().__init__(Path(root) / _FOLDER)

    def described(self, key: ClassifierKey) -> str:
        """Which classifier."""
        return f"the classifier of {', '.join(key.groups)} (seed {key.seed})"

    def command(self, key: ClassifierKey) -> str:
        """How to make it."""
        return "run guda guide" + (f" with --seed {key.seed}" if key.seed else "")

    def any(self) -> bool:
        """Whether there is a classifier, if only one that an earlier version wrote."""
        return bool(self.records() or self._old())

    def find(self, *, seed: int, hparams: str | None = None) -> ClassifierRecord:
        """The record of the one classifier that is meant.

        Args:
            seed: Seed of its training.
            hparams: Start of the hash of its hyper-parameters, where the store holds several.

        Raises:
            StoreError: There is none, there are several, or an earlier version wrote it.
        """
        every = self.records()
        found = [r for r in every if r.seed == seed and r.hparams_hash.startswith(hparams or "")]
        if len(found) == 1:
            return found[0]
        if not every and (old := self._old()):
            raise _written_earlier(old[0], self.root)
        listed = [f"seed {r.seed}, hyper-parameters {r.hparams_hash[:8]}" for r in (found or every)]
        several = f"{self.root} holds several classifiers that fit"
        raise StoreError(
            several if found else f"there is no classifier in {self.root}",
            found="; ".join(listed) or "none of any kind",
            expected=f"one with seed {seed}" + (f", hyper-parameters {hparams}" if hparams else ""),
            fix="pass --hparams with the first digits of one hash" if found else "run guda guide",
        )

    def _old(self) -> list[Path]:
        """Folders of classifiers that version 0.1.0 kept among the counterfactuals."""
        return sorted(path.parent for path in self.root.parent.glob(f"{GUIDANCE}-*/{RECORD}"))


def _written_earlier(folder: Path, root: Path) -> StoreError:
    version = read_json(folder / RECORD).get("versions", {}).get("guda_lightning", "an earlier one")
    return StoreError(
        f"the classifier in {folder} was stored as a counterfactual",
        found=f"a classifier that guda-lightning {version} wrote",
        expected=f"one in {root}",
        fix=f"run guda guide, which trains it again, and remove {folder}",
    )


class StoredPosterior(NamedTuple):
    """A classifier that was read from a store.

    Attributes:
        posterior: The classifier.
        record: How it was made.
        hash: Identity of its weights.
    """

    posterior: ClassifierPosterior
    record: ClassifierRecord
    hash: str


def network_hparams(plan: ClassifierPlan, image_shape: tuple[int, int, int]) -> dict[str, Any]:
    """What a record says of a classifier, so that it can be built again.

    Raises:
        ConfigError: ``image_shape`` cannot be halved as often as the plan says.
    """
    plain = {**asdict(plan), "channels": list(plan.channels_for(image_shape))}
    return {"classifier": plain, "image_shape": list(image_shape)}


def weights_of(classifier: GroupClassifier) -> dict[str, Tensor]:
    """All that the store keeps of a classifier: weights, temperatures, and its atoms by sorted group name."""
    order = sorted(range(len(classifier.groups)), key=classifier.groups.__getitem__)
    temperatures: Any = classifier.temperatures
    return {
        **classifier.network.state_dict(),
        "temperatures": temperatures,
        "atoms": classifier.atoms[:, order].to(torch.uint8),
    }


def open_posterior(
    store: ClassifierStore,
    schedule: NoiseSchedule,
    *,
    seed: int,
    hparams: str | None,
    expect: Provenance | None,
    device: torch.device | str = "cpu",
) -> StoredPosterior:
    """Read the classifier of a store.

    Args:
        store: The store.
        schedule: The full model's noise schedule.
        seed: Seed of its training.
        hparams: Start of the hash of its hyper-parameters, where the store holds several.
        expect: What it must have been made from; None: anything.
        device: Where to put it.

    Raises:
        StoreError: There is none, there are several, or it is damaged or made from something else.
    """
    weights, record = store.load(store.find(seed=seed, hparams=hparams).key, expect=expect)
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
    posterior = ClassifierPosterior(
        schedule=schedule,
        atoms=atoms.to(device),
        groups=record.groups,
        network=network,
        temperatures=temperatures.to(device),
    )
    return StoredPosterior(posterior, record, record.weights_hash)
