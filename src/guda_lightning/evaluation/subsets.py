"""Score tables compared with models of subsets of the groups: ``guda evaluate --lds``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from guda_lightning.counterfactuals import RETRAIN, SUBSETS
from guda_lightning.data.group_names import GroupNames
from guda_lightning.errors import ConfigError, GroupError, StoreError
from guda_lightning.evaluation.lds import lds
from guda_lightning.evaluation.matrices import matrices_of, oracle_matrices
from guda_lightning.evaluation.races import race_of
from guda_lightning.evaluation.tables import SAME, File, load_table, oracle_tables, reason, seed_of_subsets
from guda_lightning.functional.lds import FEWEST
from guda_lightning.scores import ScoreTable
from guda_lightning.storage.frames import load_frame, save_frame
from guda_lightning.storage.runs import RunFolder

ADDITIVE = "retrained groups, summed"  # the oracle without one group each: is the game additive?
_FILE = "lds.parquet"


@dataclass(frozen=True, eq=False)
class SubsetEvaluation:
    """How well sums of scores order models of subsets of the groups.

    Attributes:
        lds: Columns ``weighting, method, yardstick, value, low, high, chance``, explained in
            `guda_lightning.evaluation.lds`.
        record: What was compared, as JSON values: names, hashes, subsets, resamples, notes.
    """

    lds: pd.DataFrame
    record: dict[str, Any]

    def save(self, folder: str | Path) -> None:
        """Write ``lds.parquet`` with the record as JSON in the schema's metadata."""
        save_frame(Path(folder) / _FILE, self.lds, self.record)

    @classmethod
    def load(cls, folder: str | Path) -> SubsetEvaluation:
        """Read what ``save`` wrote.

        Raises:
            StoreError: It is missing or damaged.
        """
        return cls(*load_frame(Path(folder) / _FILE, "guda evaluate RUN --lds"))


def subset_tables(run: RunFolder, paths: Sequence[Path]) -> list[File]:
    """Read the tables of models of subsets, which must differ in nothing but their seed.

    Args:
        run: The run folder.
        paths: The files; RUN/scores/retrain-SEED-subsets.parquet, by seed, where there are none.

    Raises:
        StoreError: There are none, they do not fit each other, or there are too few subsets.
    """
    files = oracle_tables(run, paths or _own(run))
    path, first = files[0]
    if len(first.groups) < FEWEST:
        raise StoreError(
            f"{path} has too few subsets to rank",
            found=f"{len(first.groups)}: {', '.join(first.groups)}",
            expected=f"at least {FEWEST}",
            fix="guda retrain and guda attribute with --subsets 16",
        )
    return files


def compare_subsets(
    run: RunFolder,
    files: Sequence[File],
    singles: Sequence[File],
    reference: str | None,
    chosen: Sequence[Path] | None = None,
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> SubsetEvaluation:
    """Compare score tables with models of subsets.

    Args:
        run: The run folder.
        files: As ``subset_tables`` gives them.
        singles: The oracle's tables without one group each, one a seed; there may be none.
        reference: Name of that of the full model's seed, if it is known.
        chosen: Tables to compare; all others of RUN/scores that fit if left out.
        resamples: Bootstrap resamples of every interval.
        level: Of the intervals.
        seed: Of the resamples.

    Raises:
        StoreError: A table that was named is about something else.
        GroupError: A table that was named lacks a group that a subset leaves out.
        ConfigError: There is nothing to compare.
    """
    path, first = files[0]
    used = {one.resolve() for one, _ in (*files, *singles)}
    methods, notes = _methods(run, first, path, used, chosen)
    additive = {one.stem: table for one, table in singles if _lacks(table, first) is None}
    if not methods and not additive and len(files) == 1:
        raise ConfigError(
            "there is nothing to compare with the models of subsets",
            found=f"one seed, {path.stem}, and no score table of all groups",
            expected="a method, or a second seed",
            fix="score the same queries with guda attribute",
        )
    coalitions = _coalitions([*methods.values(), *additive.values()], first)
    groups = sorted({name for names in coalitions for name in names})
    removed = torch.tensor([[name in names for name in groups] for names in coalitions])
    oracles = {one.stem: table for one, table in files}
    frames = []
    for weighting in first.weightings:
        sides = matrices_of(methods, weighting, first, "group", groups)
        if additive and weighting in next(iter(additive.values())).weightings:
            of_seeds = oracle_matrices(additive, weighting, first, "group", reference, groups)
            sides[ADDITIVE] = torch.stack(list(of_seeds.values())).mean(dim=0)
        measured = torch.stack(list(matrices_of(oracles, weighting, first, "group").values()))
        found = lds(sides, measured, removed, resamples=resamples, level=level, seed=seed)
        frames.append(found.assign(weighting=weighting)[["weighting", *found.columns]])
    record = {
        "methods": {name: table.record.hash for name, table in methods.items()},
        "oracles": {name: table.record.hash for name, table in oracles.items()},
        "oracle_seeds": [table.seeds[0] for table in oracles.values()],
        **{name: value for name in SAME if (value := getattr(first.record, name)) is not None},
        "queries": len(first.queries),
        "subsets": list(first.groups),
        "groups": groups,
        **{"resamples": resamples, "level": level, "seed": seed, "notes": notes},
    }
    return SubsetEvaluation(pd.concat(frames, ignore_index=True), record)


def _own(run: RunFolder) -> list[Path]:
    """The tables of subsets about the run's own queries, by seed."""
    found = {int(seed): path for path in run.scores.glob("*.parquet") if (seed := seed_of_subsets(path.stem))}
    if not found:
        raise StoreError(
            f"{run.root} has no models of subsets to compare with",
            found=f"no {RETRAIN}-SEED-{SUBSETS}.parquet in {run.scores}",
            expected="score tables of models retrained on subsets of the groups, one a seed",
            fix="guda retrain -c ... --subsets 16 --seeds 0,1, then guda attribute -c ... --operator retrain "
            "--subsets 16 --seed 0,1; or name tables after --lds",
        )
    return [found[seed] for seed in sorted(found)]


def _methods(
    run: RunFolder, first: ScoreTable, about: Path, used: set[Path], chosen: Sequence[Path] | None
) -> tuple[dict[str, ScoreTable], list[str]]:
    """The tables to compare by name, and why others are left out; one that was named is refused instead."""
    found, notes = {}, []
    for path in sorted(run.scores.glob("*.parquet")) if chosen is None else chosen:
        if path.resolve() in used or (chosen is None and seed_of_subsets(path.stem) is not None):
            continue
        table = load_table(path)
        if chosen is None and table.record.query_hash != first.record.query_hash:
            continue
        try:
            _refuse_other(path, table, about, first)
            if (lack := _lacks(table, first)) is not None:
                raise lack
        except (StoreError, GroupError) as error:
            if chosen is not None:
                raise
            notes.append(f"{path.stem} is left out: {reason(error, run)}")
            continue
        if race_of(table) is not None:
            notes.append(f"{path.stem} is left out: a race finds the groups that lead, not what they sum to")
            continue
        found[path.stem] = table
    return found, notes


def _refuse_other(path: Path, table: ScoreTable, about: Path, first: ScoreTable) -> None:
    """Refuse a table about other queries, models or groups.

    Raises:
        StoreError: It is.
    """
    differing = {
        name: what
        for name, what in SAME.items()
        if None not in (values := (getattr(table.record, name), getattr(first.record, name)))
        and values[0] != values[1]
    }
    if set(table.queries) != set(first.queries):
        differing["query_hash"] = SAME["query_hash"]
    if differing:
        name, what = next(iter(differing.items()))
        raise StoreError(
            f"{path} is about {what} than {about}",
            found=f"{name} {str(getattr(table.record, name))[:16]}",
            expected=f"{name} {str(getattr(first.record, name))[:16]}",
            fix="score both alike with guda attribute, or leave one out with --scores or --lds",
        )


def _lacks(table: ScoreTable, first: ScoreTable) -> GroupError | None:
    """What is wrong where a table lacks groups that subsets leave out; None: nothing."""
    names = GroupNames(table.groups)
    for subset in first.groups:
        try:
            names.coalition(subset)
        except GroupError as error:
            return GroupError(
                f"{'+'.join(table.methods)} does not score all groups that subsets leave out",
                found=f"{len(table.groups)} groups; of the subset without {subset}: {error.problem}",
                expected="a score of every group",
                fix="score all groups with guda attribute, or leave it out of --scores",
            )
    return None


def _coalitions(tables: Sequence[ScoreTable], first: ScoreTable) -> list[tuple[str, ...]]:
    """The groups that each subset leaves out, by the names that score tables know."""
    if not tables:  # the oracle alone is compared: any names do
        return [(subset,) for subset in first.groups]
    names = GroupNames(tables[0].groups)
    return [names.coalition(subset) for subset in first.groups]
