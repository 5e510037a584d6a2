"""Score tables compared with those of an oracle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor

from guda_lightning.data.group_names import requested_groups
from guda_lightning.diffusion import open_schedule
from guda_lightning.errors import ConfigError, StoreError
from guda_lightning.evaluation.agreement import agreement
from guda_lightning.evaluation.calibration import calibrate, choose, refuse_none_held_out
from guda_lightning.evaluation.races import only_decided, race_note, race_of
from guda_lightning.evaluation.result import DISJOINT, EVERY, SHARED, Evaluation
from guda_lightning.evaluation.tables import PLURAL, SAME, reason
from guda_lightning.scores import ScoreTable
from guda_lightning.scores.kinds import Likelihood
from guda_lightning.scores.stored import stored_errors, table_of_draw
from guda_lightning.storage.full_record import FullRecord
from guda_lightning.storage.runs import RunFolder

OFFSET = (
    "No oracle seed is known to be the full model's: oracle scores carry an offset per query. Rankings and "
    "magnitudes within queries are free of it; those over all queries and across them, and signs, are not."
)


LEVEL, SEED = 0.95, 0  # of intervals and of their resamples


Tables = Mapping[str, ScoreTable]  # by the stem of their file


def compare(
    methods: Tables,
    oracles: Tables,
    run: RunFolder,
    *,
    per: Literal["group", "sample"] = "group",
    calibration: str | None = None,
    resamples: int = 2000,
    notes: Sequence[str] = (),
) -> Evaluation:
    """Compare tables that fit each other; ``run`` has the squared errors that they derive from.

    Raises:
        ConfigError: There is nothing to compare, or no group left to test a calibration on.
        GroupError: A group to calibrate on does not exist.
    """
    methods, races, of_races = _races(methods, per)
    _refuse_too_little(methods, oracles)
    first, notes = next(iter(oracles.values())), [*notes, *of_races]
    chosen = [] if calibration is None else requested_groups(calibration, first.groups)
    refuse_none_held_out(first.groups, chosen)
    reference = _paired_with_full(run, oracles)
    if reference is None and per == "sample":
        raise ConfigError(
            "scores per sample need an oracle of the full model's seed",
            found=f"oracle seeds {', '.join(str(t.seeds[0]) for t in oracles.values())}",
            expected="the full model's seed: other seeds add an offset to every group",
            fix="guda retrain and guda attribute for that seed too",
        )
    if reference is None:
        notes.append(OFFSET)
    compared = {EVERY: (methods, oracles, oracles)}  # methods, held-out oracle seeds, yardstick
    try:
        one, other = _single_draws(run, {**oracles, **methods})
    except (StoreError, ConfigError) as error:
        notes.append(f"Agreement on disjoint noise is left out: {reason(error, run)}")
    else:
        of_methods, of_oracles = ({name: one[name] for name in side} for side in (methods, oracles))
        compared[SHARED] = (of_methods, of_oracles, of_oracles)
        compared[DISJOINT] = (of_methods, of_oracles, {name: other[name] for name in oracles})
    frames: dict[str, list[pd.DataFrame]] = {"metrics": [], "comparisons": [], "magnitudes": []}
    calibrations = []
    for weighting in first.weightings:
        for noise, tables in compared.items():
            scores = _matrices(tables[0], weighting, first, per)
            held_out, yardstick = (_oracles(side, weighting, first, per, reference) for side in tables[1:])
            if not scores and len(oracles) < 2:
                continue  # no method has this weighting
            seeds = torch.stack(list(yardstick.values()))
            found = agreement(
                scores,
                seeds,
                held_out=torch.stack(list(held_out.values())),
                resamples=resamples,
                level=LEVEL,
                seed=SEED,
            )
            labels = {"weighting": weighting, "noise": noise, "per": per}
            for name, parts in frames.items():
                parts.append(_labelled(only_decided(getattr(found, name), races), **labels))
            sized = {name: matrix for name, matrix in scores.items() if name not in races}
            if noise == EVERY and chosen and sized:
                fitted = _calibration(sized, seeds.mean(dim=0), first.groups, chosen)
                calibrations.append(_labelled(fitted, **labels))
    joined = {name: pd.concat(parts, ignore_index=True) for name, parts in frames.items()}
    record = {
        "methods": {name: table.record.hash for name, table in methods.items()},
        "oracles": {name: table.record.hash for name, table in oracles.items()},
        "oracle_seeds": [table.seeds[0] for table in oracles.values()],
        **{name: value for name in SAME if (value := getattr(first.record, name)) is not None},
        "queries": len(first.queries),
        "groups": list(first.groups),
        "groups_scored": max(len(table.groups) for table in (first, *methods.values())),
        "per": per,
        "calibration_groups": chosen,
        "resamples": resamples,
        "level": LEVEL,
        "seed": SEED,
        "notes": notes,
    }
    joint = pd.concat(calibrations, ignore_index=True) if calibrations else None
    return Evaluation(**joined, record=record, calibration=joint)


def _races(methods: Tables, per: str) -> tuple[Tables, dict[str, int], list[str]]:
    """The methods that can be compared, how many leading groups those of a race were about, and notes."""
    races = {name: top for name, table in methods.items() if (top := race_of(table)) is not None}
    if per == "group":
        return methods, races, [race_note(name, top) for name, top in races.items()]
    kept = {name: table for name, table in methods.items() if name not in races}
    left_out = "is left out: a race finds the groups that lead as a whole, not per sample"
    return kept, {}, [f"{name} {left_out}" for name in races]


def _refuse_too_little(methods: Tables, oracles: Tables) -> None:
    if not methods and len(oracles) < 2:
        raise ConfigError(
            "there is nothing to compare with the oracle",
            found=f"one oracle seed, {next(iter(oracles))}, and no score table of a method",
            expected="a method, or a second oracle seed",
            fix="run guda unlearn and guda attribute, or guda retrain -c ... --seeds 0,1",
        )
    first = next(iter(oracles.values()))
    for kind, names in (("query", first.queries), ("group", first.groups)):
        if len(names) < 2:
            raise ConfigError(
                f"one {kind} is too few to compare rankings",
                found=f"the oracle has only the {kind} '{names[0]}'",
                expected=f"at least two {PLURAL[kind]}",
                fix=f"score more {PLURAL[kind]} with guda attribute",
            )


def _single_draws(run: RunFolder, tables: Tables) -> tuple[Tables, Tables]:
    """Every table as its first draw alone, and as its second draw alone, would have given it.

    A table that does not derive from squared errors, such as similarity, is the same in both.

    Raises:
        StoreError: Squared errors are gone, or were measured on different noise.
        ConfigError: There are too few.
    """
    noises = {
        name: (record.scoring.seed, record.scoring.plan, record.provenance.schedule_hash)
        for name, table in tables.items()
        if isinstance((record := table.record).details, Likelihood) and record.scoring and record.provenance
    }
    different = [name for name, noise in noises.items() if noise != next(iter(noises.values()))]
    if not noises or different:
        raise StoreError(
            "the tables do not share noise",
            found=f"{different[0]} and {next(iter(noises))} differ in draws, timesteps or seed"
            if different
            else "no table derives from squared errors",
            expected="tables scored alike",
            fix="score them with the same options of guda attribute",
        )
    _, plan, _ = next(iter(noises.values()))
    if plan["draws"] < 2 or len(plan["starts"]) < 2:
        raise ConfigError(
            "it needs two draws and two strata",
            found=f"scored with draws {plan['draws']}, strata {len(plan['starts'])}",
            expected="two of each",
            fix="guda attribute -c ... --scoring.draws 2",
        )
    schedule = open_schedule(run.full)
    one, other = dict(tables), dict(tables)
    for name in noises:
        errors = stored_errors(tables[name], run.errors)
        one[name], other[name] = (table_of_draw(tables[name], errors, schedule, draw) for draw in (0, 1))
    return one, other


def _matrices(tables: Tables, weighting: str, reference: ScoreTable, per: str) -> dict[str, Tensor]:
    """Scores under a weighting, in the order of the reference's queries and groups.

    A table with none of the reference's weightings is compared under each of them with what it has.
    """
    matrices = {}
    for name, table in tables.items():
        foreign = not set(table.weightings) & set(reference.weightings)
        names = table.weightings if foreign else [weighting] if weighting in table.weightings else []
        for chosen in names:
            label = f"{name} {chosen}" if len(names) > 1 else name
            matrices[label] = _matrix(_scaled(name, table, per).select(weighting=chosen), reference)
    return matrices


def _oracles(
    tables: Tables, weighting: str, first: ScoreTable, per: str, reference: str | None
) -> dict[str, Tensor]:
    """Scores of the oracle's seeds; another seed than the full model's without the offset of its start.

    That offset, ELBO(full of this seed) − ELBO(full of that seed), is one number per query for all groups.
    """
    matrices = _matrices(tables, weighting, first, "group")
    if reference is not None:
        level = matrices[reference].mean(dim=1, keepdim=True)
        matrices = {name: m - m.mean(dim=1, keepdim=True) + level for name, m in matrices.items()}
    if per == "sample":
        sizes = torch.tensor([_sizes(first)[group] for group in first.groups], dtype=torch.float64)
        matrices = {name: matrix / sizes for name, matrix in matrices.items()}
    return matrices


def _sizes(table: ScoreTable) -> Mapping[str, int]:
    """Samples of each group, which ``per_sample`` refuses to do without."""
    return table.per_sample().record.group_sizes


def _paired_with_full(run: RunFolder, oracles: Tables) -> str | None:
    """The oracle's table of the seed that the full model was trained with, if both are known."""
    record = FullRecord.of_run(run.full)
    first = next(iter(oracles.values()))
    if record is None or record.seed is None or record.full_hash != first.record.full_hash:
        return None
    return next((name for name, table in oracles.items() if table.seeds[0] == record.seed), None)


def _scaled(name: str, table: ScoreTable, per: str) -> ScoreTable:
    """The table with scores per group or per sample."""
    if per == "group" and table.per == "sample":
        raise ConfigError(
            f"the scores of {name} are per sample",
            found="a table that per_sample() gave",
            expected="scores per group",
            fix="pass --per sample, or leave it out of --scores",
        )
    return table if table.per == per else table.per_sample()


def _matrix(part: ScoreTable, reference: ScoreTable) -> Tensor:
    """Scores ``[queries, groups]`` of one weighting, in the order of the reference."""
    rows = {query: row for row, query in enumerate(part.queries)}
    columns = {group: column for column, group in enumerate(part.groups)}
    matrix = part.matrix()[[rows[query] for query in reference.queries]]
    return matrix[:, [columns[group] for group in reference.groups]]


def _calibration(
    methods: Mapping[str, Tensor], oracle: Tensor, groups: Sequence[str], chosen: Sequence[str]
) -> pd.DataFrame:
    """Each method's line to the oracle, in the order of how well it does on the calibration groups alone.

    The first is the preferred one, unless even its scores run against the oracle.
    """
    rows: list[dict[str, Any]] = []
    for candidate in choose(methods, oracle, groups, chosen).to_dict("records"):
        method = str(candidate["candidate"])
        fitted = calibrate(methods[method], oracle, groups, chosen)
        numbers = {name: getattr(fitted, name) for name in _CALIBRATION}
        preferred = not rows and fitted.scale > 0
        rows.append({"method": method, "preferred": preferred, "fitted_r2": candidate["r2"], **numbers})
    return pd.DataFrame(rows)


_CALIBRATION = ("scale", "offset", "r2", "error", "uncalibrated_error")


def _labelled(frame: pd.DataFrame, **labels: str) -> pd.DataFrame:
    """The frame with columns in front that hold one value each."""
    return frame.assign(**labels)[[*labels, *frame.columns]]
