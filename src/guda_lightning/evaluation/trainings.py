"""What several trainings say of the same queries: log-likelihoods, from stored squared errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from guda_lightning.counterfactuals import RETRAIN, SUBSETS
from guda_lightning.diffusion import open_schedule
from guda_lightning.errors import StoreError
from guda_lightning.evaluation.tables import load_table
from guda_lightning.scores import ScoreTable
from guda_lightning.scores.kinds import Ensemble, Likelihood
from guda_lightning.scores.stored import stored_elbos
from guda_lightning.storage.config import differences, without_seeds
from guda_lightning.storage.full_record import FullRecord
from guda_lightning.storage.runs import RunFolder

Elbos = Mapping[str, Tensor]  # weighting to ELBOs [queries]
ByTraining = dict[int, Elbos]  # by the seed of the training

# What tables must share beside queries, by what to call another one, as read from their records.
_SHARED: Mapping[str, Callable[[ScoreTable], object]] = {
    "noise or timesteps": lambda table: None if (s := table.record.scoring) is None else (s.seed, s.plan),
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
        hparams: Method to the hash of the hyper-parameters of its first table.
    """

    queries: tuple[str, ...]
    weightings: tuple[str, ...]
    identity: Mapping[str, object]
    full: ByTraining = field(default_factory=dict)
    without: dict[str, dict[str, ByTraining]] = field(default_factory=dict)
    subsets: dict[str, ByTraining] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    hparams: dict[str, str | None] = field(default_factory=dict)


def read_trainings(runs: Sequence[RunFolder], on_table: Callable[[], None] = lambda: None) -> Trainings:
    """Read all tables of counterfactuals about the queries of the first run folder.

    A training is known by its seed. Of retrained models that is their own; other counterfactuals are made of
    a full model and share its training: the first table of a method in each run folder counts.

    Args:
        runs: Folders of full models that differ in their seed alone.
        on_table: Called after every table.

    Raises:
        StoreError: The models differ in more than their seed or share it, tables of the same queries are
            scored differently, a run folder has none, or stored errors are gone.
    """
    fulls = _full_models(runs)
    about, query_hash = _own_queries(runs[0], fulls[0])
    found = [_tables(run, full, query_hash) for run, full in zip(runs, fulls, strict=True)]
    for run, tables in zip(runs, found, strict=True):
        if not tables:
            queries = runs[0].queries if runs[0].queries.is_dir() else "FOLDER"
            again = f"guda attribute -c ... --run {run.root} --queries {queries}"
            raise _none(run, f"the queries of {about}", again)
    first_path, first = found[0][0]
    hashes = {name: getattr(first.record, name) for name in ("query_hash", "grouping_hash")}
    identity = {**hashes, "full_hashes": [full.full_hash for full in fulls]}
    read = Trainings(first.queries, first.weightings, identity)
    for run, full, tables in zip(runs, fulls, found, strict=True):
        schedule = open_schedule(run.full)
        for path, table in tables:
            _refuse_otherwise_scored(path, table, first_path, first, run, runs[0])
            elbos = stored_elbos(table, run.errors, schedule)
            read.full[full.seed] = elbos[None]
            _add(read, path, table, full.seed, {group: elbos[group] for group in table.groups})
            on_table()
    return read


def _own_queries(run: RunFolder, full: _Full) -> tuple[Path, str | None]:
    """A table that is named after nothing but method and seed, and the hash of its queries.

    Raises:
        StoreError: There is none.
    """
    for path, table in _tables(run, full):
        name = f"{table.methods[0]}-{table.seeds[0]}"
        if path.stem in (name, f"{name}-{SUBSETS}"):
            return path, table.record.query_hash
    raise _none(run, "the run's own queries", f"guda attribute -c ... --run {run.root}")


def _tables(run: RunFolder, full: _Full, query_hash: str | None = None) -> list[tuple[Path, ScoreTable]]:
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


def _refuse_otherwise_scored(
    path: Path, table: ScoreTable, first_path: Path, first: ScoreTable, run: RunFolder, of: RunFolder
) -> None:
    for what, read in _SHARED.items():
        if read(table) != read(first):
            raise StoreError(
                f"{path} and {first_path} were scored with other {what}",
                found=str(read(table))[:100],
                expected=str(read(first))[:100],
                fix=f"guda attribute -c ... --run {run.root} --queries {of.queries} with the options of "
                f"{first_path.stem}, or remove {path}",
            )


def _add(read: Trainings, path: Path, table: ScoreTable, seed: int, elbos: Mapping[str, Elbos]) -> None:
    """Take the counterfactuals of a table, unless its training has some already."""
    method, details = table.methods[0], table.record.details
    hparams = read.hparams.setdefault(method, getattr(details, "hparams_hash", None))
    if hparams != getattr(details, "hparams_hash", None):
        read.notes.append(
            f"{method} was not made with the same hyper-parameters, or the same posterior, in all run folders"
        )
    if method == RETRAIN:
        seed = table.seeds[0]
    of_subsets = method == RETRAIN and path.stem.endswith(f"-{SUBSETS}")
    sides = read.subsets if of_subsets else read.without.setdefault(method, {})
    taken = [group for group in elbos if seed in sides.get(group, {})]
    for group, values in elbos.items():
        sides.setdefault(group, {}).setdefault(seed, values)
    if taken and method != RETRAIN:  # that of one seed is the same model in every run folder
        read.notes.append(
            f"{path.parent.parent.name}/{path.stem} is left out: another {method} is of the same training"
        )
