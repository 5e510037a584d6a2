"""Weights on disk: folders that are whole or absent, each with the record of how its weights were made."""

from __future__ import annotations

import gc
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from guda_lightning.errors import NumericsError, StoreError
from guda_lightning.storage.files import atomic_folder, sha256_file
from guda_lightning.storage.hashed import hash_of
from guda_lightning.storage.provenance import Provenance
from guda_lightning.storage.weights_record import LATER, RECORD, Key, WeightsRecord

if TYPE_CHECKING:
    from torch import Tensor

_ORIGINS = {
    "full_hash": "full model",
    "schedule_hash": "noise schedule",
    "grouping_hash": "grouping",
    "input_shape": "image shape",
    "data_hash": "set of training data",
}


@contextmanager
def _uncollected() -> Iterator[None]:
    """No search for cycles, which records have none of: it is a quarter of the time to read thousands."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


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
        except StoreError:  # missing or damaged
            return False
        return True

    def holds(self, key: _Key, expect: Provenance) -> bool:
        """Whether weights are stored, for whoever makes them otherwise; what lies in their place is refused.

        Raises:
            StoreError: Their record cannot be read, as it is damaged or of a later version; or they were made
                from another full model, schedule, grouping, or other data.
        """
        if not (self.path(key) / RECORD).is_file():
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
            unknown = value is None or (name in LATER and found is None)
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
        records = []
        with _uncollected():
            for name in whole:
                try:
                    records.append(self._read(root, name))
                except StoreError:
                    if os.path.isfile(f"{root}/{name}/{RECORD}"):  # asked only now: thousands are there
                        raise
        return records

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
