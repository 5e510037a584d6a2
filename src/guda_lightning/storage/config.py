"""The configuration that a folder was made from: its work is refused, skipped or gone on with by that."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from guda_lightning.errors import StoreError
from guda_lightning.storage.files import canonical_json
from guda_lightning.storage.sealed import folder_record, write_json
from guda_lightning.storage.seals import fault, intact_work
from guda_lightning.storage.weights_record import RECORD


def begin(folder: Path, config: Mapping[str, Any]) -> None:
    """Note what a stage is made from in a folder for its unfinished work, or go on with what is there.

    Work whose note is damaged is removed.

    Raises:
        StoreError: What is there was made from something else.
    """
    record = folder / RECORD
    begun = any(path.name != RECORD for path in folder.glob("[!.]*"))
    if begun and intact_work(folder, fault(record), "what it is beside begins again"):
        refuse_other_config(folder, config)
    else:  # nothing was kept of an earlier attempt, whatever its configuration
        write_json(record, {"config": config})


def refuse_other_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse to go on with, or to skip, what was made from another configuration.

    Args:
        folder: What has a sealed record with an entry ``config``.
        config: The configuration of today.

    Raises:
        StoreError: The record's configuration differs, or the record is damaged.
    """
    refuse_other(folder, folder_record(folder).get("config", {}), config)


def refuse_other(folder: Path, stored: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Refuse a folder that was made from another configuration.

    Args:
        folder: The folder.
        stored: The configuration that it was made from.
        config: The configuration of today.

    Raises:
        StoreError: They differ.
    """
    different = differences(stored, read_back(config))
    if different:
        key, before, after = different[0]
        more = f" (and {len(different) - 1} more)" if len(different) > 1 else ""
        raise StoreError(
            f"{folder} was made with another configuration",
            found=f"{key} = {before}{more}",
            expected=f"{key} = {after}",
            fix=f"use another --run, restore the configuration, or remove {folder}",
        )


def read_back(value: Mapping[str, Any]) -> dict[str, Any]:
    """The value as JSON gives it back, to compare with a stored one."""
    back: dict[str, Any] = json.loads(canonical_json(value))
    return back


def without_seeds(config: Mapping[str, Any]) -> dict[str, Any]:
    """A training's configuration without what differs between its seeds."""
    kept = {name: value for name, value in read_back(config).items() if name != "seed_everything"}
    for section in ("model", "data"):
        if isinstance(kept.get(section), dict):
            kept[section].get("init_args", {}).pop("seed", None)
    return kept


def differences(before: Any, after: Any, key: str = "") -> list[tuple[str, Any, Any]]:
    """Where two JSON values differ: key, and both values."""
    if isinstance(before, dict) and isinstance(after, dict):
        names = sorted({*before, *after})
        return [
            d for n in names for d in differences(before.get(n), after.get(n), f"{key}.{n}" if key else n)
        ]
    return [] if before == after else [(key, before, after)]
