"""How weights were made: the sealed record beside them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from guda_lightning.errors import StoreError
from guda_lightning.storage.files import read_json, read_json_bytes, sha256_json
from guda_lightning.storage.provenance import Provenance, versions
from guda_lightning.storage.seals import SEAL, refuse_damaged_contents, sealed_json
from guda_lightning.storage.typed import refuse_misfits

if TYPE_CHECKING:
    from typing_extensions import Self

RECORD = "record.json"
_FORMAT = 1
LATER = ("stopped", "core_seconds", "input_shape", "data_hash")  # entries that earlier versions did not write


class Key(Protocol):
    """What tells the weights of one folder from those of another."""

    @property
    def folder_name(self) -> str:
        """Name of the folder: readable, safe, and unique to the key."""


@dataclass(frozen=True, kw_only=True)
class WeightsRecord(ABC):
    """How weights were made; ``record.json`` beside them.

    Attributes:
        groups: Names of the groups that they are about, sorted.
        seed: Seed of their training.
        hparams: Every hyper-parameter, as JSON values.
        full_hash: Hash of the full model that they were made from.
        schedule_hash: Hash of its noise schedule.
        grouping_hash: Hash of the grouping that names the groups.
        versions: Package name to version.
        seconds: Wall-clock time of their training, without what an interruption threw away.
        steps: Optimizer steps.
        network_evaluations: Samples that all processes passed through a network in their training, forward
            passes only, without what an interruption threw away.
        stopped: What has ended their training where that was no count of steps, or which step of it is kept;
            else None.
        core_seconds: Seconds of the cores of the first process; None where an earlier version wrote it.
        input_shape: Channels, height and width of what the full model takes; None where an earlier version
            wrote it, or nothing said.
        data_hash: Hash of the training data; None where an earlier version wrote it, or nothing said.
        files: File name to sha256; filled in by the store.
        complete: Whether the store holds all of it; filled in by the store.
    """

    groups: tuple[str, ...]
    seed: int
    hparams: dict[str, Any]
    full_hash: str
    schedule_hash: str
    grouping_hash: str | None
    versions: dict[str, str]
    seconds: float
    steps: int
    network_evaluations: int
    stopped: str | None = None
    core_seconds: float | None = None
    input_shape: tuple[int, int, int] | None = None
    data_hash: str | None = None
    files: dict[str, str] = field(default_factory=dict)
    complete: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", tuple(sorted(set(self.groups))))
        if self.input_shape is not None:  # a list in JSON
            object.__setattr__(self, "input_shape", tuple(self.input_shape))

    @classmethod
    def of(
        cls,
        key: Key,
        hparams: Mapping[str, Any],
        provenance: Provenance,
        *,
        seconds: float,
        steps: int,
        network_evaluations: int,
        stopped: str | None = None,
        core_seconds: float | None = None,
        **own: Any,
    ) -> Self:
        """The record of what was made just now, by the installed versions.

        Args:
            key: What it is stored under: a dataclass with the hash of the hyper-parameters.
            hparams: Every hyper-parameter, as JSON values.
            provenance: What it was made from, with the grouping.
            seconds: Wall-clock time of its training.
            steps: Optimizer steps.
            network_evaluations: Samples that all processes passed through a network, forward passes only.
            stopped: What has ended its training where that was no count of steps.
            core_seconds: Seconds of the cores of the first process.
            **own: What records of this kind hold besides.
        """
        named = {name: value for name, value in vars(key).items() if name != "hparams_hash"}
        return cls(
            **named,
            hparams=dict(hparams),
            **vars(provenance),
            versions=versions(),
            seconds=seconds,
            steps=steps,
            network_evaluations=network_evaluations,
            stopped=stopped,
            core_seconds=core_seconds,
            **own,
        )

    @property
    @abstractmethod
    def key(self) -> Key:
        """What the weights are stored under."""

    @property
    def weights_hash(self) -> str:
        """Hash of the file with the weights, once the store holds it."""
        (digest,) = self.files.values()
        return digest

    @cached_property
    def hparams_hash(self) -> str:
        """Hash of the hyper-parameters, as in the key."""
        return sha256_json(self.hparams)

    def to_json(self) -> str:
        """The text of ``record.json``, sealed so that a later edit shows."""
        value = {**asdict(self), "hparams_hash": self.hparams_hash, "format": _FORMAT}
        for name in LATER:
            if value[name] is None:
                del value[name]
        return sealed_json(value).decode()

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Read a ``record.json``.

        Raises:
            StoreError: The file is missing, of another format, or was edited.
        """
        value, is_sealed = _record(path)
        hparams_hash = value.get("hparams_hash")
        value = {name: value[name] for name in _names(cls) if name in value}
        if not is_sealed or not _needed(cls) <= value.keys():  # what is sealed is as it was written
            refuse_misfits(cls, value, path, "restore the file, or remove its folder and make it again")
        record = cls(**value)
        if is_sealed:
            vars(record)["hparams_hash"] = hparams_hash
        return record


def read_record(path: str | Path) -> dict[str, Any]:
    """Read the entries of a ``record.json`` of weights, which is sealed; an earlier one holds its own hash.

    Raises:
        StoreError: The file is missing, of another format, or was edited.
    """
    return _record(path)[0]


@cache
def _names(kind: type[WeightsRecord]) -> tuple[str, ...]:
    return tuple(each.name for each in fields(kind))


@cache
def _needed(kind: type[WeightsRecord]) -> frozenset[str]:
    optional = [
        each.name for each in fields(kind) if (each.default, each.default_factory) != (MISSING, MISSING)
    ]
    return frozenset(_names(kind)) - set(optional)


def _record(path: str | Path) -> tuple[dict[str, Any], bool]:
    """The entries, and whether they are sealed."""
    fix = "restore the file, or remove its folder and make it again"
    value, content = read_json_bytes(path, infinities=True)  # a sealed one was written without
    if value.get("format") != _FORMAT:
        raise StoreError(
            f"{path} is of another format",
            found=value.get("format"),
            expected=_FORMAT,
            fix="use the version of guda-lightning that wrote it, or remove its folder and make it again",
        )
    if value.pop(SEAL, None) is not None:
        refuse_damaged_contents(path, content, fix)
        return value, True
    value = read_json(path)
    written = value.pop("sha256", None)
    if sha256_json(value) != written:
        raise StoreError(
            f"{path} was changed after it was written",
            found=f"contents with sha256 {sha256_json(value)}",
            expected=f"contents with sha256 {written}",
            fix=fix,
        )
    return value, False
