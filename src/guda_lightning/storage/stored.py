"""Weights on disk: folders that are whole or absent, each with the record of how its weights were made."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from guda_lightning.errors import NumericsError, StoreError
from guda_lightning.storage.files import (
    atomic_folder,
    read_json_bytes,
    sha256_file,
    sha256_json,
)
from guda_lightning.storage.provenance import Provenance, versions
from guda_lightning.storage.seals import SEAL, hash_of, refuse_damaged_contents, sealed_json
from guda_lightning.storage.typed import refuse_misfits

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import Self

RECORD = "record.json"
_FORMAT = 1
_ORIGINS = {
    "full_hash": "full model",
    "schedule_hash": "noise schedule",
    "grouping_hash": "grouping",
    "input_shape": "image shape",
}
_LATER = ("stopped", "core_seconds", "input_shape")  # entries that earlier versions did not write


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
        for name in _LATER:
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
    value, content = read_json_bytes(path)
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
    written = value.pop("sha256", None)
    if sha256_json(value) != written:
        raise StoreError(
            f"{path} was changed after it was written",
            found=f"contents with sha256 {sha256_json(value)}",
            expected=f"contents with sha256 {written}",
            fix=fix,
        )
    return value, False


_Key = TypeVar("_Key", bound=Key)
_Record = TypeVar("_Record", bound=WeightsRecord)


class WeightStore(ABC, Generic[_Key, _Record]):
    """A folder with one subfolder per set of weights, each whole or absent.

    Args:
        root: The folder; made when the first weights are saved.
    """

    record_type: ClassVar[type[WeightsRecord]]

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    @abstractmethod
    def described(self, key: _Key) -> str:
        """What the weights of a key are, for errors."""

    @abstractmethod
    def command(self, key: _Key) -> str:
        """How to make them, for errors: ``run guda ...``."""

    def file_name(self, record: _Record) -> str:
        """Name of the file with the weights."""
        return "model.safetensors"

    def path(self, key: _Key) -> Path:
        """The folder of a key, whether it is there or not."""
        return self.root / key.folder_name

    def exists(self, key: _Key) -> bool:
        """Whether complete weights are stored; ``check`` says whether they are the right ones."""
        try:
            self.record(key)
        except StoreError:  # missing or damaged: either way they have to be made
            return False
        return True

    def holds(self, key: _Key, expect: Provenance) -> bool:
        """Whether complete weights are stored; those that were made from something else are refused.

        Raises:
            StoreError: They were made from another full model, schedule or grouping.
        """
        if not self.exists(key):
            return False
        self.check(key, expect=expect)
        return True

    def save(self, state_dict: Mapping[str, Tensor], record: _Record) -> Path:
        """Store weights under the key of their record, in place of earlier ones.

        Args:
            state_dict: The weights; none for what its record tells whole.
            record: How they were made, without ``files`` and ``complete``.

        Returns:
            Their folder.

        Raises:
            NumericsError: A weight is not finite.
            StoreError: The disk is full.
        """
        from safetensors.torch import save_file  # here, as records are read without torch

        key: Any = record.key
        for name, tensor in state_dict.items():
            if not tensor.isfinite().all():
                raise NumericsError(
                    f"{self.described(key)} has weights that are not numbers",
                    found=f"NaN or infinity in {name}",
                    expected="finite weights",
                    fix="make it again with a lower learning rate, or a lower forget_weight of its objective",
                )
        # Weights that share memory, which safetensors refuses, become copies.
        weights = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state_dict.items()}
        path = self.path(key)
        with atomic_folder(path) as folder:
            file, files = folder / self.file_name(record), {}
            if weights:
                save_file(weights, file)
                files[file.name] = sha256_file(file)
            complete = replace(record, files=files, complete=True)
            (folder / RECORD).write_text(complete.to_json(), "utf-8")
        return path

    def load(self, key: _Key, *, expect: Provenance | None) -> tuple[dict[str, Tensor], _Record]:
        """Read weights and their record.

        Args:
            key: Which ones.
            expect: What they must have been made from; None: anything.

        Returns:
            The weights, on the CPU, and their record; no weights where its record tells all.

        Raises:
            StoreError: They are missing, incomplete, damaged, or made from something else.
        """
        from safetensors.torch import load_file

        record = self.check(key, expect=expect)
        for name, written in record.files.items():
            file = self.path(key) / name
            digest = hash_of(file)
            if digest != written:
                raise StoreError(
                    f"{file} is damaged",
                    found=f"sha256 {digest}" if file.is_file() else digest,
                    expected=f"sha256 {written}",
                    fix=f"remove {self.path(key)} and {self.command(key)}",
                )
        weights: dict[str, Tensor] = {}
        for name in record.files:
            weights |= load_file(self.path(key) / name)
        return weights, record

    def check(self, key: _Key, *, expect: Provenance | None) -> _Record:
        """Read a record and refuse what was made from something else, weights unread.

        Args:
            key: Which weights.
            expect: What they must have been made from; None: anything.

        Raises:
            StoreError: They are missing, incomplete, or made from something else.
        """
        record = self.record(key)
        for name, value in ({} if expect is None else vars(expect)).items():
            found = getattr(record, name)
            unknown = value is None or (name in _LATER and found is None)
            if not unknown and found != value:
                origin = _ORIGINS[name]
                raise StoreError(
                    f"{self.path(key) / RECORD}: {self.described(key)} was made from another {origin}",
                    found=f"{name} {found}",
                    expected=f"{name} {value}",
                    fix=f"use the {origin} it was made from, or remove {self.path(key)} "
                    f"and {self.command(key)}",
                )
        return record

    def record(self, key: _Key) -> _Record:
        """Read a record.

        Raises:
            StoreError: It is missing, incomplete or damaged.
        """
        path = self.path(key)
        if not path.is_dir():
            raise StoreError(
                f"{self.described(key)} is not in the store",
                found=f"no folder {path}",
                expected="a folder with weights and record",
                fix=self.command(key),
            )
        return self._read(str(path.parent), path.name)

    def records(self) -> list[_Record]:
        """Read all records, in the order of their folders' names.

        Raises:
            StoreError: A record is damaged. What an interrupted save left behind does not count.
        """
        root = os.fspath(self.root)
        names = sorted(os.listdir(root)) if os.path.isdir(root) else []
        whole = (name for name in names if not name.startswith("."))
        return [self._read(root, name) for name in whole if os.path.isfile(f"{root}/{name}/{RECORD}")]

    def _read(self, root: str, name: str) -> _Record:
        file = f"{root}/{name}/{RECORD}"  # texts: a store of ten thousand would make as many paths thrice
        record: Any = self.record_type.from_file(file)
        if record.key.folder_name != name or not record.complete:
            raise StoreError(
                f"{file} does not belong in its folder",
                found=f"the {'' if record.complete else 'in'}complete record of {record.key.folder_name}",
                expected=f"the complete record of {name}",
                fix=f"remove {root}/{name}, or give it back its name",
            )
        read: _Record = record
        return read
