"""Squared errors that a scoring left on disk, and the score table that one of their draws gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from guda_lightning.errors import StoreError
from guda_lightning.functional.schedule import NoiseSchedule
from guda_lightning.scores.scoring import Scoring, score_table
from guda_lightning.scores.squared_errors import SquaredErrors
from guda_lightning.scores.table import ScoreTable
from guda_lightning.storage.files import sha256_json

_SCORING = ("seed", "plan", "stderr", "precision", "schedule_hash")  # what Scoring.record() holds


def error_identity(record: Mapping[str, Any], model: str) -> dict[str, object]:
    """What identifies one model's squared errors.

    Args:
        record: Of a score table: how and what it scored.
        model: Hash of the model's weights.
    """
    names = (*_SCORING, "query_hash", *(["encoders"] if "encoders" in record else []))
    return {**{name: record[name] for name in names}, "model": model}


def error_path(folder: Path, identity: Mapping[str, object]) -> Path:
    """Where the errors of an identity lie in the folder of a run's squared errors."""
    return folder / f"{sha256_json(identity)[:16]}.safetensors"


def stored_errors(table: ScoreTable, folder: Path) -> dict[str | None, SquaredErrors]:
    """What a table derives from: errors of the full model (None) and of each group's counterfactual.

    Args:
        table: A table whose record names counterfactuals and, where its queries were scored in several
            chunks, those.
        folder: Where `CounterfactualAttributor` kept them.

    Raises:
        StoreError: Some are gone, damaged, or made from something else.
    """
    hashes = table.record["counterfactuals"]
    models: dict[str | None, str] = {None: table.record["full_hash"]}
    models.update({group: hashes[group] for group in table.groups})
    chunks = [{**table.record, **chunk} for chunk in table.record.get("chunks", [{}])]
    errors = {}
    for group, model in models.items():
        identities = [error_identity(chunk, model) for chunk in chunks]
        parts = [SquaredErrors.load(error_path(folder, one), expect=one) for one in identities]
        errors[group] = SquaredErrors.concat(parts, error_identity(table.record, model))
    return errors


def table_of_draw(
    table: ScoreTable, errors: Mapping[str | None, SquaredErrors], schedule: NoiseSchedule, draw: int
) -> ScoreTable:
    """The score table that one of the draws per stratum gives by itself, without a network evaluation.

    Two draws of a table have independent noise and timesteps.

    Args:
        table: The table of all draws.
        errors: What it derives from, as ``stored_errors`` reads it.
        schedule: The models' noise schedule.
        draw: Which draw, from 0.

    Raises:
        StoreError: The table was made on another schedule.
    """
    scoring = _scoring(table.record)
    if schedule.hash != table.record["schedule_hash"]:
        raise StoreError(
            "the scores were made on another noise schedule",
            found=f"schedule_hash {schedule.hash[:16]}",
            expected=f"schedule_hash {table.record['schedule_hash'][:16]}",
            fix="give the schedule of the full model that was scored",
        )
    chosen = {
        group: SquaredErrors(
            of_all.query_ids,
            of_all.errors[:, :, draw : draw + 1],
            of_all.timesteps[:, :, draw : draw + 1],
            of_all.record,
        )
        for group, of_all in errors.items()
    }
    return score_table(
        chosen[None],
        {group: chosen[group] for group in table.groups},
        schedule,
        replace(scoring, draws=1),
        method=table.methods[0],
        seed=table.seeds[0],
        record=table.record,
    )


def _scoring(record: Mapping[str, Any]) -> Scoring:
    """The scoring of a record."""
    plan = record["plan"]
    grid = None
    if plan["kind"] == "fixed":
        low, high = plan["range"]
        grid = (low, high + 1, max(1, (high - low) // max(1, plan["timesteps"] - 1)))
    return Scoring(record["seed"], len(plan["starts"]), plan["draws"], grid, precision=record["precision"])
