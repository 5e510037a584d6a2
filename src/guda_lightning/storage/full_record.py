"""The record of the full model: ``RUN/full/record.json``."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from guda_lightning.errors import StoreError
from guda_lightning.storage.data_identity import DataIdentity
from guda_lightning.storage.files import read_json
from guda_lightning.storage.provenance import versions
from guda_lightning.storage.runs import RunFolder
from guda_lightning.storage.seals import (
    SEAL,
    SEALS,
    refuse_damaged,
    refuse_damaged_folder,
    sealed_folder,
    sealed_json,
)
from guda_lightning.storage.typed import refuse_misfits
from guda_lightning.storage.weights_record import RECORD

_REQUIRED = ("full_hash", "schedule_hash", "config", "steps", "seconds", "network_evaluations")
_FORMAT = 1  # also of records without a format, which version 0.1.0 wrote


@dataclass(frozen=True)
class FullRecord:
    """How the full model was trained.

    Attributes:
        full_hash: Its identity, ``FullModel.hash``.
        schedule_hash: Hash of its noise schedule.
        config: The configuration that it was made from, as JSON values.
        steps: Optimizer steps.
        seconds: Wall-clock time of its training, without what an interruption threw away.
        network_evaluations: Samples that all processes passed through its network, forward passes only.
        stopped: What has ended its training where that was no count of steps or epochs; else None.
        grouping_hash: Hash of the grouping of its training data; None where the data have no groups.
        data_hash: Hash of its training data; None where it is not known.
        layout: Where a module that is no ``DiffusionModule`` has its network and scheduler, as the trainer
            was told; None where it was not.
        input_shape: Channels, height and width of what it takes; None where it is not known.
        core_seconds: Seconds of the cores of the first process; None where an earlier version wrote it.
        labels_hash: Hash of the class labels of its training data; None where it takes none, or where an
            earlier version wrote it.
        versions: Package name to version; today's where none are given.
        sealed: Whether its folder is; False where an earlier version wrote it.
    """

    full_hash: str
    schedule_hash: str
    config: Mapping[str, Any]
    steps: int
    seconds: float
    network_evaluations: int
    stopped: str | None = None
    grouping_hash: str | None = None
    data_hash: str | None = None
    layout: Mapping[str, Any] | None = None
    input_shape: tuple[int, int, int] | None = None
    core_seconds: float | None = None
    labels_hash: str | None = None
    versions: Mapping[str, str] = field(default_factory=versions)
    sealed: bool = True

    def __post_init__(self) -> None:
        if self.input_shape is not None:  # a list in JSON
            object.__setattr__(self, "input_shape", tuple(self.input_shape))

    @property
    def seed(self) -> int | None:
        """The seed of its training; None where the configuration sets none (``seed_everything: false``)."""
        seed = self.config.get("seed_everything")
        return seed if isinstance(seed, int) and not isinstance(seed, bool) else None

    def to_dict(self) -> dict[str, Any]:
        """The entries of ``record.json``, without those that are not known."""
        known = {name: value for name, value in asdict(self).items() if value is not None}
        del known["sealed"]
        return {**known, "complete": True, "format": _FORMAT}

    def to_json(self) -> str:
        """The text of ``record.json``, sealed."""
        return sealed_json(self.to_dict()).decode()

    def save(self, model: Path, folder: Path) -> None:
        """Keep a model under this record.

        Args:
            model: The folder of the full model.
            folder: Where it lies then; the same one, if its record alone is replaced.

        Raises:
            StoreError: The disk is full.
        """
        with sealed_folder(folder) as new:
            shutil.copytree(model, new, dirs_exist_ok=True)
            (new / RECORD).write_text(self.to_json(), "utf-8")

    @classmethod
    def from_file(cls, path: str | Path) -> FullRecord:
        """Read a ``record.json``; one of an earlier version has no seal.

        Raises:
            StoreError: The file is missing, damaged, of another format, or lacks something.
        """
        folder = Path(path).parent
        if (folder / SEALS).is_file():
            refuse_damaged_folder(folder, _fix(folder), RECORD)
        value = read_json(path)
        is_sealed = SEAL in value
        if is_sealed:
            refuse_damaged(path, _fix(folder))
        names = {each.name for each in fields(cls)}
        kept = {name: content for name, content in value.items() if name in names}
        lacking = [name for name in _REQUIRED if name not in kept]
        if value.get("format", _FORMAT) != _FORMAT or lacking:
            told = value.get("versions")
            version = told.get("guda_lightning") if isinstance(told, dict) else "an unknown version"
            raise StoreError(
                f"{path} is no record of a full model that this version reads",
                found=f"format {value.get('format', 'unset')} of guda-lightning {version}"
                + (f", without {', '.join(lacking)}" if lacking else ""),
                expected=f"format {_FORMAT}",
                fix="use the version of guda-lightning that wrote it, or remove its folder and run guda fit",
            )
        refuse_misfits(cls, kept, path, "restore it, or remove its folder and run guda fit")
        return cls(**{**kept, "sealed": is_sealed})

    @classmethod
    def of_run(cls, folder: Path) -> FullRecord | None:
        """The record of RUN/full, or None where no full model of this library lies there.

        Args:
            folder: RUN/full.

        Raises:
            StoreError: The record cannot be read, or is gone from a sealed folder.
        """
        ours = any((folder / name).is_file() for name in (RECORD, SEALS))
        return cls.from_file(folder / RECORD) if ours else None

    @classmethod
    def intact(cls, folder: Path, part: str = "") -> FullRecord | None:
        """As ``of_run``, where the folder is as it was sealed.

        Args:
            folder: RUN/full.
            part: What is read of it, a file or a subfolder by its name; empty: all.

        Raises:
            StoreError: Something of it is damaged.
        """
        record = cls.of_run(folder)
        if record is not None and record.sealed:
            refuse_damaged_folder(folder, _fix(folder), part)
        return record

    @classmethod
    def of_fit(cls, run: RunFolder, fix: str = "run guda fit first") -> FullRecord:
        """The record of a full model that ``guda fit`` trained, with the configuration that it was made from.

        Args:
            run: The run folder.
            fix: What to do where there is none.

        Raises:
            StoreError: There is no such model, or its record cannot be read.
        """
        record = cls.of_run(run.full)
        if record is None or not record.config:
            raise StoreError(
                f"{run.root} does not say what its full model was trained on",
                found="no such folder"
                if not run.root.is_dir()
                else f"no configuration in {run.full}/record.json",
                expected="a full model that guda fit trained",
                fix=fix,
            )
        return record

    def refuse_unfinished(self, folder: Path) -> None:
        """Refuse a training of fewer steps than its configuration says, as earlier versions kept of dry runs.

        Args:
            folder: RUN/full.

        Raises:
            StoreError: Steps alone end it, and it took fewer.
        """
        told = self.config.get("trainer")
        trainer = told if isinstance(told, Mapping) else {}
        steps = trainer.get("max_steps")
        steps = steps if isinstance(steps, int) else -1
        if self.steps < steps and trainer.get("max_epochs") in (None, -1) and self.stopped is None:
            raise StoreError(
                f"{folder} was trained for fewer steps than its configuration says",
                found=f"{self.steps} steps",
                expected=f"trainer.max_steps = {steps}",
                fix=f"remove {folder} and run guda fit again",
            )

    def refuse_other_data(self, folder: Path, configured: DataIdentity) -> None:
        """Refuse data with other images, groups or class labels than the full model was trained on.

        Args:
            folder: RUN/full.
            configured: The data that the configuration names.

        Raises:
            StoreError: It was trained on others.
        """
        for name, found in asdict(configured).items():
            trained = getattr(self, name)
            if trained not in (None, found):
                raise StoreError(
                    f"{folder} was trained on other data",
                    found=f"{name} {_short(found)} of the configured data",
                    expected=f"{name} {_short(trained)}",
                    fix="use the data section that the full model was trained with, or another --run",
                )


def _short(value: object) -> object:
    """The beginning of a hash tells it from another one."""
    return value[:16] if isinstance(value, str) else value


def _fix(folder: Path) -> str:
    return f"restore it, or remove {folder} and run guda fit again"
