"""What several trainings say of the same queries: log-likelihoods, from stored squared errors."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from guda_lightning.counterfactuals import RETRAIN, SUBSETS
from guda_lightning.diffusion import open_schedule
from guda_lightning.errors import StoreError
from guda_lightning.evaluation.tables import load_table
from guda_lightning.scores import ScoreTable
from guda_lightning.scores.kinds import Ensemble, Likelihood, ModelDetails
from guda_lightning.scores.stored import stored_elbos
from guda_lightning.storage.config import differences, without_seeds
from guda_lightning.storage.full_record import FullRecord
from guda_lightning.storage.runs import RunFolder

Elbos = Mapping[str, Tensor]  # weighting to ELBOs [queries]
ByTraining = dict[int, Elbos]  # by the seed of the training
Found = tuple[Path, ScoreTable]

_GUIDED = "guided"  # networks that learned what guidance predicts

# What tables must share beside queries, by what to call another one, as read from their records.
_SHARED: Mapping[str, Callable[[ScoreTable], object]] = {
    "noise or timesteps": lambda table: (
        None if (s := table.record.scoring) is None else (s.seed, s.plan, s.noise)
    ),
    "precision": lambda table: None if (s := table.record.scoring) is None else s.precision,
    "encoders": lambda table: table.record.encoders,
    "groups": lambda table: table.record.grouping_hash,
    "weightings": lambda table: table.weightings,
}


@dataclass(eq=False)
class Trainings:
    """What models of several trainings say of the same queries.

    Attributes:
        queries: Names of the queries.
        weightings: Names.
        full: ELBOs under the model of all the data, by training.
        without: Method and group to ELBOs under models without the group, by training.
        subsets: Subset, such as ``3+7`` where these are left out, to ELBOs under models retrained on it.
        identity: Hashes of queries, groups and full models.
        notes: What was left out, and why.
        tables: Paths of the tables that were read, relative to the first run folder, and their hashes.
    """

    queries: tuple[str, ...]
    weightings: tuple[str, ...]
    identity: Mapping[str, object]
    full: ByTraining = field(default_factory=dict)
    without: dict[str, dict[str, ByTraining]] = field(default_factory=dict)
    subsets: dict[str, ByTraining] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    tables: dict[str, str] = field(default_factory=dict)


def read_trainings(runs: Sequence[RunFolder], on_table: Callable[[], None] = lambda: None) -> Trainings:
    """Read all tables of counterfactuals about the queries of the first run folder.

    A training is known by its seed. Of retrained models that is their own; other counterfactuals are made of
    a full model and share its training: the first table of a method in each run folder counts. Tables that
    were scored with other draws, or are about counterfactuals of other hyper-parameters, are left out.

    Args:
        runs: Folders of full models that differ in their seed alone.
        on_table: Called after every table.

    Raises:
        StoreError: The models differ in more than their seed or share it, a run folder has no table of the
            same queries, or none that is scored alike, or stored errors are gone.
    """
    fulls = _full_models(runs)
    first_path, first = _own_queries(runs[0], fulls[0])
    hashes = {name: getattr(first.record, name) for name in ("query_hash", "grouping_hash")}
    identity = {**hashes, "full_hashes": [full.full_hash for full in fulls]}
    read = Trainings(first.queries, first.weightings, identity)
    of_methods: dict[str, Found] = {}
    found = []
    for run, full in zip(runs, fulls, strict=True):
        tables = _tables(run, full, first.record.query_hash)
        if not tables:
            queries = runs[0].queries if runs[0].queries.is_dir() else "FOLDER"
            again = f"guda attribute -c ... --run {run.root} --queries {queries}"
            raise _none(run, f"the queries of {first_path}", again)
        found.append(_alike(tables, (first_path, first), of_methods, read.notes, run, runs[0]))
    for run, full, tables in zip(runs, fulls, found, strict=True):
        schedule = open_schedule(run.full)
        for path, table in tables:
            elbos = stored_elbos(table, run.errors, schedule)
            read.full[full.seed] = elbos[None]
            read.tables[os.path.relpath(path, runs[0].root)] = table.record.hash
            _add(read, path, table, full.seed, {group: elbos[group] for group in table.groups})
            on_table()
    unsized = {table.methods[0] for _, table in of_methods.values() if not _is_sized(table)}
    read.notes.extend(
        f"The size of {method}'s differences is not known: compare groups by them, they are no claim in nats."
        for method in sorted(unsized)
    )
    return read


def _is_sized(table: ScoreTable) -> bool:
    details = table.record.details
    return isinstance(details, Likelihood) and details.sized


def _own_queries(run: RunFolder, full: _Full) -> Found:
    """A table that is named after nothing but method and seed.

    Raises:
        StoreError: There is none.
    """
    for path, table in _tables(run, full):
        name = f"{table.methods[0]}-{table.seeds[0]}"
        if path.stem in (name, f"{name}-{SUBSETS}"):
            return path, table
    raise _none(run, "the run's own queries", f"guda attribute -c ... --run {run.root}")


def _tables(run: RunFolder, full: _Full, query_hash: str | None = None) -> list[Found]:
    """The tables of counterfactuals of a full model about some queries, by method and seed."""
    records = {path: ScoreTable.load_record(path) for path in run.scores.glob("*.parquet")}
    tables = [
        (path, load_table(path))
        for path, record in records.items()
        if isinstance(record.details, Likelihood)
        and not isinstance(record.details, Ensemble)  # its own full model is no training
        and record.full_hash == full.full_hash
        and query_hash in (None, record.query_hash)
    ]
    return sorted(tables, key=lambda one: (one[1].methods[0], one[1].seeds[0], len(one[0].stem), one[0].stem))


def _none(run: RunFolder, of: str, command: str) -> StoreError:
    return StoreError(
        f"{run.root} has no scores of counterfactuals to compare trainings by",
        found=f"no table about {of} in {run.scores}",
        expected="squared errors of the full model and of counterfactuals on the same queries",
        fix=command,
    )


@dataclass(frozen=True)
class _Full:
    """What a comparison knows of a full model."""

    seed: int
    full_hash: str


def _full_models(runs: Sequence[RunFolder]) -> list[_Full]:
    """Those of the run folders.

    Raises:
        StoreError: One has no seed or that of another one, or they differ in more than it.
    """
    known: dict[int, RunFolder] = {}
    first: FullRecord | None = None
    fulls = []
    for run in runs:
        record = FullRecord.of_run(run.full)
        seed = None if record is None else record.seed
        if record is None or seed is None or seed in known:
            raise StoreError(
                f"{run.root} is no other training",
                found="no full model of guda fit"
                if record is None
                else "a full model without a seed"
                if seed is None
                else f"seed {seed}, as in {known[seed].root}",
                expected="one run folder a seed",
                fix=f"guda fit -c ... --seed_everything {max(known, default=-1) + 1} --run OTHER",
            )
        known[seed] = run
        first = first or record
        _refuse_other_training(run, record, runs[0], first)
        fulls.append(_Full(seed, record.full_hash))
    return fulls


def _refuse_other_training(
    run: RunFolder, record: FullRecord, first_run: RunFolder, first: FullRecord
) -> None:
    different = differences(without_seeds(first.config), without_seeds(record.config))
    if different:
        key, before, after = different[0]
        raise StoreError(
            f"the full models of {first_run.root} and {run.root} differ in more than their seed",
            found=f"{key} = {after}",
            expected=f"{key} = {before}",
            fix=f"guda fit with the configuration of {first_run.root}, another seed and another --run",
        )
    for name in ("data_hash", "grouping_hash"):
        found, expected = getattr(record, name), getattr(first, name)
        if None not in (found, expected) and found != expected:
            raise StoreError(
                f"{run.root} was trained on other data than {first_run.root}",
                found=f"{name} {found[:16]}",
                expected=f"{name} {expected[:16]}",
                fix="train on the same data; where data.limit draws samples, pass the same data.seed to all",
            )


def _alike(
    tables: Sequence[Found],
    first: Found,
    of_methods: dict[str, Found],
    notes: list[str],
    run: RunFolder,
    of: RunFolder,
) -> list[Found]:
    """The tables of a run folder that can be compared with those before.

    Args:
        tables: All of them.
        first: The table that says how queries are scored.
        of_methods: The first table of each method, which says how counterfactuals are made; is added to.
        notes: What is left out, and why; is added to.
        run: The run folder.
        of: The first one.

    Raises:
        StoreError: None is left.
    """
    alike: list[Found] = []
    refused: list[StoreError] = []
    for path, table in tables:
        scored = [what for what, read in _SHARED.items() if read(table) != read(first[1])]
        other = first if scored else of_methods.setdefault(table.methods[0], (path, table))
        what, reads = (scored[0], _SHARED[scored[0]]) if scored else ("hyper-parameters", _hparams)
        if reads(table) == reads(other[1]):
            alike.append((path, table))
            if _made(table) != _made(other[1]):
                notes.append(
                    f"{table.methods[0]} follows from posteriors of other hyper-parameters, or models"
                )
            continue
        notes.append(f"{_named(path)} is left out: it was made with other {what} than {_named(other[0])}")
        refused.append(
            StoreError(
                f"{path} and {other[0]} were made with other {what}",
                found=str(reads(table))[:100],
                expected=str(reads(other[1]))[:100],
                fix=("" if scored else f"make counterfactuals with the hyper-parameters of {other[0]}, then ")
                + f"guda attribute -c ... --run {run.root} --queries {of.queries} with the options of "
                + other[0].stem,
            )
        )
    if not alike:
        raise refused[0]
    return alike


def _hparams(table: ScoreTable) -> str | None:
    """Hash of the hyper-parameters of counterfactuals; None where each full model's posterior made them."""
    details = table.record.details
    by_posterior = isinstance(details, ModelDetails) and details.classifier is not None
    return None if by_posterior or table.methods[0].startswith(_GUIDED) else _made(table)


def _made(table: ScoreTable) -> str | None:
    details = table.record.details
    return details.hparams_hash if isinstance(details, ModelDetails) else None


def _named(path: Path) -> str:
    return f"{path.parent.parent.name}/{path.stem}"


def _add(read: Trainings, path: Path, table: ScoreTable, seed: int, elbos: Mapping[str, Elbos]) -> None:
    """Take the counterfactuals of a table, unless its training has some already."""
    method = table.methods[0]
    if method == RETRAIN:
        seed = table.seeds[0]
    of_subsets = method == RETRAIN and path.stem.endswith(f"-{SUBSETS}")
    sides = read.subsets if of_subsets else read.without.setdefault(method, {})
    taken = [group for group in elbos if seed in sides.get(group, {})]
    for group, values in elbos.items():
        sides.setdefault(group, {}).setdefault(seed, values)
    if taken and method != RETRAIN:  # that of one seed is the same model in every run folder
        read.notes.append(f"{_named(path)} is left out: another {method} is of the same training")
