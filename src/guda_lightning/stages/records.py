"""What identifies the work of a stage: it is refused, skipped or gone on with by that."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from guda_lightning.counterfactuals import CounterfactualKey, CounterfactualStore
from guda_lightning.data import GroupDataModule
from guda_lightning.data.grouping import Grouping
from guda_lightning.diffusion import FullModel
from guda_lightning.errors import StoreError
from guda_lightning.storage.files import canonical_json, read_json, write_atomic

RECORD = "record.json"


def begin(folder: Path, config: Mapping[str, Any]) -> None:
    """Note what a stage is made from in a folder for its unfinished work, or go on with what is there.

    Raises:
        StoreError: What is there was made from something else.
    """
    if any(path.name != RECORD for path in folder.glob("[!.]*")):
        refuse_other_config(folder / RECORD, config)
    else:  # nothing was kept of an earlier attempt, whatever its configuration
        write_record(folder, {"config": config})


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write a stage's record, the last file of its folder."""
    write_atomic(folder / RECORD, canonical_json(record, indent=2) + "\n")


def refuse_other_config(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse to go on with, or to skip, what was made from another configuration.

    Raises:
        StoreError: The record's configuration differs.
    """
    stored = read_json(path).get("config", {})
    now = read_back(config)
    different = _differences(stored, now)
    if different:
        key, before, after = different[0]
        more = f" (and {len(different) - 1} more)" if len(different) > 1 else ""
        raise StoreError(
            f"{path.parent} was made with another configuration",
            found=f"{key} = {before}{more}",
            expected=f"{key} = {after}",
            fix=f"use another --run, restore the configuration, or remove {path.parent}",
        )


def refuse_other_data(path: Path, datamodule: GroupDataModule) -> None:
    """Refuse a full model of the run folder that was trained on other images or other groups.

    Raises:
        StoreError: It was.
    """
    stored = read_json(path) if path.is_file() else {}
    for key, now in (("data_hash", datamodule.hash), ("grouping_hash", datamodule.grouping.hash)):
        if stored.get(key, now) != now:
            raise StoreError(
                f"{path.parent} was trained on other data",
                found=f"{key} {now[:16]} of the configured data",
                expected=f"{key} {stored[key][:16]}",
                fix="use the data section that the full model was trained with, or another --run",
            )


def _differences(before: Any, after: Any, key: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(after, dict):
        names = sorted({*before, *after})
        return [
            d for n in names for d in _differences(before.get(n), after.get(n), f"{key}.{n}" if key else n)
        ]
    return [] if before == after else [(key, before, after)]


def made_from(full: FullModel, grouping: Grouping) -> dict[str, str]:
    """What a counterfactual must have been made from to go with this full model and these groups."""
    return {
        "full_hash": full.hash,
        "schedule_hash": full.model.schedule.hash,
        "grouping_hash": grouping.hash,
    }


def is_stored(store: CounterfactualStore, key: CounterfactualKey, expect: Mapping[str, str]) -> bool:
    """Whether a complete counterfactual lies in the store; one made from something else is refused.

    Raises:
        StoreError: It was made from another full model, grouping or schedule.
    """
    if not store.exists(key):
        return False
    store.check(key, expect=expect)
    return True


def without_seeds(config: Mapping[str, Any]) -> dict[str, Any]:
    """A training's configuration without what differs between its seeds."""
    kept = {name: value for name, value in read_back(config).items() if name != "seed_everything"}
    for section in ("model", "data"):
        if isinstance(kept.get(section), dict):
            kept[section].get("init_args", {}).pop("seed", None)
    return kept


def read_back(value: Mapping[str, Any]) -> dict[str, Any]:
    """The value as JSON gives it back, to compare with a stored one."""
    back: dict[str, Any] = json.loads(canonical_json(value))
    return back


def log_record(trainer: Trainer, record: Mapping[str, Any]) -> None:
    """Give a stage's record to all loggers as hyper-parameters."""
    for logger in trainer.loggers:
        logger.log_hyperparams(dict(record))
