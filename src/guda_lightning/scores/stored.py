"""Squared errors that a scoring left on disk, and the score table that one of their draws gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from torch import Tensor

from guda_lightning.errors import StoreError
from guda_lightning.functional.elbo import elbo
from guda_lightning.functional.schedule import NoiseSchedule
from guda_lightning.scores.ensembles import ensemble_errors, pair_models
from guda_lightning.scores.kinds import NAME, Ensemble, Likelihood, entries_of
from guda_lightning.scores.record import ScoreRecord, ScoringRecord
from guda_lightning.scores.scoring import Scoring, score_table
from guda_lightning.scores.squared_errors import SquaredErrors
from guda_lightning.scores.table import ScoreTable
from guda_lightning.storage.files import sha256_json
from guda_lightning.types import Weighting


def error_identity(record: ScoreRecord, model: str) -> dict[str, object]:
    """What identifies one model's squared errors.

    Args:
        record: Of scores that derive from squared errors.
        model: Hash of the model's weights.
    """
    if record.scoring is None or record.provenance is None:
        raise _underived(record)
    return {
        **entries_of(record.scoring),
        "schedule_hash": record.provenance.schedule_hash,
        "query_hash": record.query_hash,
        **({} if record.encoders is None else {"encoders": record.encoders}),
        "model": model,
    }


def error_path(folder: Path, identity: Mapping[str, object]) -> Path:
    """Where the errors of an identity lie in the folder of a run's squared errors."""
    return folder / f"{sha256_json(identity)[:16]}.safetensors"


def stored_errors(table: ScoreTable, folder: Path) -> dict[str | None, SquaredErrors]:
    """What a table derives from: errors of the full model (None) and of each group's counterfactual.

    Args:
        table: A table whose record names counterfactuals and, where its queries were scored in several
            chunks, those.
        folder: Where ``guda attribute`` kept them.

    Raises:
        StoreError: The scores do not derive from any, or some are gone, damaged, or made from something else.
    """
    files = error_files(table, folder)
    errors = {name: _loaded(table, model, files[name]) for name, model in _models(table).items()}
    details = table.record.details
    if isinstance(details, Ensemble):
        return ensemble_errors(list(errors.values()), details, table.groups)
    return errors


def full_errors(table: ScoreTable, folder: Path) -> SquaredErrors:
    """Those of the full model alone, or of what takes its place beside an ensemble; as ``stored_errors``."""
    if isinstance(table.record.details, Ensemble):
        return stored_errors(table, folder)[None]
    files = error_files(table, folder)
    return _loaded(table, _models(table)[None], files[None])


def _loaded(table: ScoreTable, model: str, files: Sequence[Path]) -> SquaredErrors:
    identities = [error_identity(chunk, model) for chunk in _chunks(table.record)]
    parts = [SquaredErrors.load(path, expect=one) for path, one in zip(files, identities, strict=True)]
    return SquaredErrors.concat(parts, error_identity(table.record, model))


def error_files(table: ScoreTable, folder: Path) -> dict[str | None, list[Path]]:
    """The files that a table derives from, one a chunk of queries.

    They are those of the full model (None) and of each group, or of each pair of members of an ensemble.

    Args:
        table: As ``stored_errors`` takes it.
        folder: Where ``guda attribute`` kept them; they need not be there.

    Raises:
        StoreError: The scores do not derive from any.
    """
    chunks = _chunks(table.record)
    return {
        name: [error_path(folder, error_identity(chunk, model)) for chunk in chunks]
        for name, model in _models(table).items()
    }


def _models(table: ScoreTable) -> dict[str | None, str]:
    """Hashes of the full model (None) and of each group's counterfactual, or of each pair of members."""
    record = table.record
    if not isinstance(record.details, Likelihood):
        raise _underived(record)
    if isinstance(record.details, Ensemble):
        return {pair: pair for pair in pair_models(record.details.members)}
    hashes = record.details.counterfactuals
    return {None: str(record.full_hash), **{group: hashes[group] for group in table.groups}}


def _chunks(record: ScoreRecord) -> list[ScoreRecord]:
    return [replace(record, query_hash=chunk.query_hash) for chunk in record.chunks] or [record]


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
    scoring = _checked_scoring(table.record, schedule)
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


def stored_elbos(
    table: ScoreTable, folder: Path, schedule: NoiseSchedule
) -> dict[str | None, dict[str, Tensor]]:
    """The evidence lower bounds whose differences a table holds.

    Args:
        table: As ``stored_errors`` takes it.
        folder: Where ``guda attribute`` kept its squared errors.
        schedule: The models' noise schedule.

    Returns:
        Full model (None) or group, then weighting, to ``[queries]`` float64 in the order of the table.

    Raises:
        StoreError: As ``stored_errors`` does, or the table was made on another schedule.
    """
    plan = _checked_scoring(table.record, schedule).plan(schedule)
    return {
        group: {
            weighting: elbo(of_model.errors, of_model.timesteps, plan, schedule, cast(Weighting, weighting))
            for weighting in table.weightings
        }
        for group, of_model in stored_errors(table, folder).items()
    }


def _checked_scoring(record: ScoreRecord, schedule: NoiseSchedule) -> Scoring:
    """The scoring of scores that derive from squared errors.

    Raises:
        StoreError: They do not, or were made on another schedule.
    """
    if record.scoring is None or record.provenance is None:
        raise _underived(record)
    if schedule.hash != record.provenance.schedule_hash:
        raise StoreError(
            "the scores were made on another noise schedule",
            found=f"schedule_hash {schedule.hash[:16]}",
            expected=f"schedule_hash {record.provenance.schedule_hash[:16]}",
            fix="give the schedule of the full model that was scored",
        )
    return scoring_of(record.scoring)


def scoring_of(record: ScoringRecord) -> Scoring:
    """The scoring of a record; batch sizes are not kept."""
    plan = record.plan
    grid = None
    if plan["kind"] == "fixed":
        low, high = plan["range"]
        grid = (low, high + 1, max(1, (high - low) // max(1, plan["timesteps"] - 1)))
    return Scoring(record.seed, len(plan["starts"]), plan["draws"], grid, precision=record.precision)


def refuse_noise_by_name(path: Path, record: ScoreRecord) -> None:
    """Refuse scores of an earlier version, for what compares them with errors that are measured today.

    Args:
        path: Their table.
        record: What identifies them.

    Raises:
        StoreError: Their noise followed from the names of the queries.
    """
    if record.noise == NAME:
        raise StoreError(
            f"the scores of {path} are on other noise than is drawn today",
            found="noise that follows from the names of the queries, as earlier versions drew it",
            expected="noise that follows from their pixels",
            fix="run guda attribute again",
        )


def _underived(record: ScoreRecord) -> StoreError:
    return StoreError(
        "the scores do not derive from squared errors",
        found=f"scores of the kind {record.kind}",
        expected="scores of counterfactuals",
        fix="score counterfactuals with guda attribute",
    )
