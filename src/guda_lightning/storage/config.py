"""The configuration that a folder was made from: its work is refused, skipped or gone on with by that."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from guda_lightning.errors import StoreError
from guda_lightning.storage.files import canonical_json, read_json, write_atomic
from guda_lightning.storage.stored import RECORD


def begin(folder: Path, config: Mapping[str, Any]) -> None:
    """Note what a stage is made from in a folder for its unfinished work, or go on with what is there.

    Raises:
        StoreError: What is there was made from something else.
    """
    if any(path.name != RECORD for path in folder.glob("[!.]*")):
        refuse_other_config(folder / RECORD, config)
    else:  # nothing was kept of an earlier attempt, whatever its configuration
        write_atomic(folder / RECORD, canonical_json({"config": config}, indent=2) + "\n")


def refuse_other_config(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse to go on with, or to skip, what was made from another configuration.

    Args:
        path: A record with an entry ``config``.
        config: The configuration of today.

    Raises:
        StoreError: The record's configuration differs.
    """
    stored = read_json(path).get("config", {})
    different = differences(stored, read_back(config))
    if different:
        key, before, after = different[0]
        more = f" (and {len(different) - 1} more)" if len(different) > 1 else ""
        raise StoreError(
            f"{path.parent} was made with another configuration",
            found=f"{key} = {before}{more}",
            expected=f"{key} = {after}",
            fix=f"use another --run, restore the configuration, or remove {path.parent}",
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
