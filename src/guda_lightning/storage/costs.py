"""What score tables cost: ``RUN/scores/costs``, one file beside each table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from guda_lightning.errors import StoreError
from guda_lightning.storage.files import sha256_json
from guda_lightning.storage.sealed import read_sealed, write_json
from guda_lightning.storage.weights_record import RECORD, read_record

_FORMAT = 1
_BLANK = "remove it: the costs are blank then"


@dataclass(frozen=True)
class Spent:
    """What some work has cost so far, over all attempts; sums add up, but for memory.

    Attributes:
        seconds: By the clock.
        core_seconds: Of the cores, of the first process; None where what was summed lacks them.
        evaluations: Samples that all processes passed through a network.
        memory: Most bytes in memory at a time, of the first process; None where nobody has measured it.
        gpu_memory: Likewise on its GPU; None without one.
    """

    seconds: float = 0.0
    core_seconds: float | None = 0.0
    evaluations: int = 0
    memory: int | None = None
    gpu_memory: int | None = None

    def __add__(self, other: Spent) -> Spent:
        cores = (self.core_seconds, other.core_seconds)
        return Spent(
            self.seconds + other.seconds,
            None if None in cores else sum(one for one in cores if one is not None),
            self.evaluations + other.evaluations,
            _most(self.memory, other.memory),
            _most(self.gpu_memory, other.gpu_memory),
        )


@dataclass(frozen=True)
class Preparation:
    """What was computed of the training samples and kept.

    Attributes:
        files: Names of what is kept, files and folders.
        size: Their bytes when this was written: what was added since, nobody has measured.
        spent: What they have cost.
    """

    files: tuple[str, ...]
    size: int
    spent: Spent = Spent()

    @property
    def name(self) -> str:
        """Of the file that says what it cost."""
        return f"{sha256_json([*self.files, self.size])[:16]}.json"

    @classmethod
    def load(cls, path: Path) -> Preparation | None:
        """Read it; None where nobody has kept what it cost.

        Raises:
            StoreError: The file is damaged, or of another format.
        """
        value = _read(path, cls)
        return None if value is None else cls(tuple(value["files"]), value["size"], Spent(**value["spent"]))

    def save(self, path: Path) -> None:
        """Write it."""
        _write(path, self)


@dataclass(frozen=True)
class TableCost:
    """What a score table cost.

    Attributes:
        scores: Hash of the record of the scores.
        queries: How many are scored.
        preparation: What is made once for any queries: counterfactuals, posterior, features of the training
            samples; None where nobody has kept what it cost.
        scoring: What these queries cost.
        disk: Bytes of what scoring reads besides the full model.
    """

    scores: str
    queries: int
    preparation: Spent | None
    scoring: Spent
    disk: int

    @classmethod
    def load(cls, path: Path) -> TableCost | None:
        """Read it; None where nobody has kept it.

        Raises:
            StoreError: The file is damaged, or of another format.
        """
        value = _read(path, cls)
        if value is None:
            return None
        prepared = value["preparation"]
        made = None if prepared is None else Spent(**prepared)
        return cls(value["scores"], value["queries"], made, Spent(**value["scoring"]), value["disk"])

    def save(self, path: Path) -> None:
        """Write it."""
        _write(path, self)

    @property
    def evaluations(self) -> int | None:
        """Network evaluations of preparation and scoring."""
        return None if self.preparation is None else self.preparation.evaluations + self.scoring.evaluations

    @property
    def memory(self) -> int | None:
        """Most bytes of ``guda attribute`` at a time: on the GPU where there is one, else in memory."""
        if self.preparation is None:
            return None
        spent = self.scoring + self.preparation
        return spent.memory if spent.gpu_memory is None else spent.gpu_memory


def made_for(folders: Iterable[Path]) -> Spent:
    """What stored weights have cost, by the records beside them; their memory was not measured.

    Raises:
        StoreError: A record is damaged.
    """
    total = Spent()
    for folder in folders:
        record = read_record(folder / RECORD)
        cores = record.get("core_seconds")
        total += Spent(record["seconds"], cores, record["network_evaluations"])
    return total


def size_of(paths: Iterable[Path]) -> int:
    """Bytes of files, and of all files in folders; some need not exist."""
    found = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*"))]
    return sum(file.stat().st_size for file in found if file.is_file())


def _most(*found: int | None) -> int | None:
    return max((one for one in found if one is not None), default=None)


def _write(path: Path, value: Preparation | TableCost) -> None:
    write_json(path, {**asdict(value), "format": _FORMAT})


def _read(path: Path, kind: type[Preparation | TableCost]) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    value, expected = read_sealed(path, _BLANK), {each.name for each in fields(kind)}
    version = value.pop("format", "unset")
    if version != _FORMAT or value.keys() != expected:
        raise StoreError(
            f"{path} does not say what scores cost",
            found=f"format {version}, entries {', '.join(sorted(value))}",
            expected=f"format {_FORMAT}, entries {', '.join(sorted(expected))}",
            fix=f"use the version of guda-lightning that wrote it, or {_BLANK}",
        )
    return value
