"""What tells a counterfactual from others, and how it was made."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass, field, fields
from importlib import metadata
from pathlib import Path
from typing import Any

from guda_lightning.errors import ConfigError, StoreError
from guda_lightning.storage.files import canonical_json, read_json, sha256_json, slug
from guda_lightning.types import JOINT
from guda_lightning.version import __version__

RETRAIN = "retrain"  # the operator of the oracle: training from scratch without the groups
GUIDANCE = "guidance"  # the operator of one classifier for all groups: no weights of a counterfactual
_FORMAT = 1


def versions() -> dict[str, str]:
    """Versions of what computes something today, for its record."""
    packages = ("torch", "lightning", "diffusers")
    return {
        "guda_lightning": __version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in packages},
    }


@dataclass(frozen=True)
class CounterfactualKey:
    """What tells one counterfactual from another in a store.

    Attributes:
        operator: How it was made: the name of an objective, or ``RETRAIN`` for the oracle.
        groups: Names of the removed groups, at least one; kept sorted and without repeats.
        seed: Seed of its training.
        hparams_hash: ``sha256_json`` of its hyper-parameters.
    """

    operator: str
    groups: tuple[str, ...]
    seed: int
    hparams_hash: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", tuple(sorted(set(self.groups))))
        if not self.groups:
            raise ConfigError(
                "a counterfactual without groups is the full model",
                found="no groups",
                expected="the name of at least one group",
                fix="name the groups that it has to forget",
            )

    @property
    def name(self) -> str:
        """Names of the groups, joined."""
        return JOINT.join(self.groups)

    @property
    def folder_name(self) -> str:
        """Readable operator and groups, and a hash that makes the name unique and safe."""
        return f"{slug(self.operator)}-{slug(self.name)}-{sha256_json(asdict(self))[:12]}"


@dataclass(frozen=True)
class CounterfactualRecord:
    """How a counterfactual was made; ``record.json`` in its folder.

    Attributes:
        operator: How it was made: the name of an objective, or ``RETRAIN`` for the oracle.
        groups: Names of the removed groups, sorted.
        seed: Seed of its training.
        hparams: Every hyper-parameter, as JSON values.
        full_hash: Hash of the full model that it was made from.
        grouping_hash: Hash of the grouping that names the groups.
        members_hash: Hash of the set of samples to forget.
        schedule_hash: Hash of the noise schedule.
        history: Influence measured while unlearning, one entry per measurement.
        versions: Package name to version.
        seconds: Wall-clock time it took to make, without what an interruption threw away.
        steps: Optimizer steps it took to make.
        network_evaluations: Samples that all processes passed through a network to make it, forward passes
            only, likewise.
        files: File name to sha256; filled in by the store.
        complete: Whether the store holds all of it; filled in by the store.
    """

    operator: str
    groups: tuple[str, ...]
    seed: int
    hparams: dict[str, Any]
    full_hash: str
    grouping_hash: str
    members_hash: str
    schedule_hash: str
    history: list[dict[str, Any]]
    versions: dict[str, str]
    seconds: float
    steps: int
    network_evaluations: int
    files: dict[str, str] = field(default_factory=dict)
    complete: bool = False

    @property
    def weights_hash(self) -> str:
        """Hash of the file with its weights, once the store holds it."""
        (digest,) = self.files.values()
        return digest

    @property
    def hparams_hash(self) -> str:
        """Hash of the hyper-parameters, as in the key."""
        return sha256_json(self.hparams)

    @property
    def key(self) -> CounterfactualKey:
        """The key that the counterfactual is stored under."""
        return CounterfactualKey(self.operator, self.groups, self.seed, self.hparams_hash)

    def to_json(self) -> str:
        """The text of ``record.json``, which holds its own hash so that a later edit shows."""
        value = {
            **asdict(self),
            "groups": self.key.groups,
            "hparams_hash": self.hparams_hash,
            "format": _FORMAT,
        }
        return canonical_json({**value, "sha256": sha256_json(value)}, indent=2) + "\n"

    @classmethod
    def from_file(cls, path: str | Path) -> CounterfactualRecord:
        """Read a ``record.json``.

        Raises:
            StoreError: The file is missing, of another format, or was edited.
        """
        value = read_json(path)
        if value.get("format") != _FORMAT:
            raise StoreError(
                f"{path} is of another format",
                found=value.get("format"),
                expected=_FORMAT,
                fix="use the version of guda-lightning that wrote it, or remove its folder and make it again",
            )
        written = value.pop("sha256", None)
        if sha256_json(value) != written:
            raise StoreError(
                f"{path} was changed after it was written",
                found=f"contents with sha256 {sha256_json(value)}",
                expected=f"contents with sha256 {written}",
                fix="restore the file, or remove its folder and make it again",
            )
        names = {each.name for each in fields(cls)}
        value = {name: content for name, content in value.items() if name in names}
        return cls(**{**value, "groups": tuple(value["groups"])})
