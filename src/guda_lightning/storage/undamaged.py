"""Whether a run folder is as it was written, by the hashes in it, before a manifest vouches for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from guda_lightning.errors import StoreError
from guda_lightning.storage.files import read_json
from guda_lightning.storage.history import is_result
from guda_lightning.storage.runs import FOLDERS, RunFolder
from guda_lightning.storage.sealed import read_sealed
from guda_lightning.storage.seals import SEALS, changed_since_sealed
from guda_lightning.storage.weights_record import RECORD, read_record

_SEALED = (".json", ".parquet", ".safetensors")
_FIX = "restore it, or remove it and run the command that makes it again"


def refuse_damaged_files(run: RunFolder, hashes: Mapping[str, str]) -> None:
    """Refuse files that are not what a seal or a record in the folder says of them.

    Args:
        run: The run folder.
        hashes: Of all files in it, by their paths in it.

    Raises:
        StoreError: One is damaged or missing.
    """
    told = dict(_told(run, hashes))
    for name, written in told.items():
        found = hashes.get(name)
        if found != written:
            raise StoreError(
                f"{run.root / name} is {'missing' if found is None else 'damaged'}",
                found="no such file" if found is None else f"contents with sha256 {found[:16]}",
                expected=f"contents with sha256 {written[:16]}, as was written",
                fix=_FIX,
            )
    for name in hashes.keys() - told.keys():  # of those the hash is known without another look
        # Users' own JSON files, such as another manifest, may hold the seals of others.
        of_stage = name.partition("/")[0] in FOLDERS or not name.endswith(".json")
        wrong = changed_since_sealed(run.root / name) if of_stage and _may_be_sealed(name) else None
        if wrong is not None:
            raise StoreError(f"{wrong.path} is damaged", found=wrong.found, expected=wrong.expected, fix=_FIX)


def weights_record(run: RunFolder, name: str) -> dict[str, Any] | None:
    """The record of weights that lies at a path in a run folder; None where something else does.

    Raises:
        StoreError: It is damaged.
    """
    if name.rpartition("/")[2] != RECORD:
        return None
    path = run.root / name
    return read_record(path) if {"hparams", "full_hash", "files"} <= read_json(path).keys() else None


def _told(run: RunFolder, names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Files with the hashes that they were written with."""
    for name in names:
        folder, _, file = name.rpartition("/")
        if not is_result(name):
            continue
        if file == SEALS:
            of_folder = read_sealed(run.root / name, _FIX)["files"]
        else:
            of_folder = (weights_record(run, name) or {}).get("files", {})
        for inner, written in of_folder.items():
            yield f"{folder}/{inner}".lstrip("/"), written


def _may_be_sealed(name: str) -> bool:
    return is_result(name) and name.endswith(_SEALED)
