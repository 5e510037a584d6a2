"""The score tables that an evaluation compares: found, read, and refused where they do not fit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from guda_lightning.counterfactuals import ENSEMBLE, RETRAIN, SUBSETS
from guda_lightning.errors import ConfigError, GudaError, StoreError
from guda_lightning.scores import ScoreTable
from guda_lightning.scores.kinds import Ensemble, Likelihood
from guda_lightning.storage.runs import RunFolder

# What compared tables share, by its attribute of their records, and what to call another one.
SAME = {"query_hash": "other queries", "full_hash": "another full model", "grouping_hash": "other groups"}
PLURAL = {"query": "queries", "group": "groups"}

File = tuple[Path, ScoreTable]
_ALIKE = "score all oracle seeds alike with guda attribute, or name those that fit with --oracle"


def oracle_tables(run: RunFolder, paths: Sequence[Path] | None = None) -> list[File]:
    """Read the oracle's tables, which must differ in nothing but their seed.

    Args:
        run: The run folder.
        paths: The files; RUN/scores/retrain-SEED.parquet, by seed, if left out, or where there are none
            RUN/scores/ensemble-SEED.parquet.

    Raises:
        StoreError: There are none, they do not fit each other, or one is another table than its name says.
    """
    tables = [(path, load_table(path)) for path in paths or _own_oracles(run)]
    if not paths:
        _refuse_renamed(tables)
    (first_path, first), *_ = tables
    seeds: dict[int, Path] = {}
    for path, table in tables:
        _fitting(path, table, first_path, first)
        _refuse_other_recipe(path, table, first_path, first)
        if set(table.groups) != set(first.groups) or set(table.weightings) != set(first.weightings):
            raise StoreError(
                f"{path} and {first_path} do not score the same",
                found=f"{len(table.groups)} groups under {', '.join(sorted(table.weightings))}",
                expected=f"{len(first.groups)} groups under {', '.join(sorted(first.weightings))}",
                fix=_ALIKE,
            )
        if table.seeds[0] in seeds:
            raise StoreError(
                f"two oracle tables are of seed {table.seeds[0]}",
                found=f"{seeds[table.seeds[0]]} and {path}",
                expected="one table a seed: the same seed twice would agree with itself",
                fix="name each seed once with --oracle",
            )
        seeds[table.seeds[0]] = path
    return tables


def method_tables(
    run: RunFolder, oracles: Sequence[File], paths: Sequence[Path] | None = None
) -> tuple[list[File], list[str]]:
    """Read the tables of methods, and say why some are left out.

    Args:
        run: The run folder.
        oracles: The oracle's tables.
        paths: The files; all others of RUN/scores about the oracle's queries if left out, less those that do
            not fit.

    Raises:
        StoreError: A file that was named does not fit the oracle, or is the oracle itself.
        ConfigError: Two files have the same name, which names the method.
    """
    if paths is None:
        tables, notes = _other_tables(run, oracles)
    else:
        tables, notes = [(path, _fitting(path, load_table(path), *oracles[0])) for path in paths], []
        _refuse_the_oracle(tables, oracles)
    _refuse_shared_names([path for path, _ in (*oracles, *tables)])
    return tables, notes


def reason(error: GudaError, run: RunFolder) -> str:
    """What was wrong, in one line without the place of the run folder, which a page should not tell."""
    return f"{error.problem} ({error.found})".replace(f"{run.root}/", "")


def _own_oracles(run: RunFolder) -> list[Path]:
    """The oracle's tables about the run's own queries, by seed: retrained models', else ensembles'."""
    found = retrained_tables(run) or _of_seeds(run, ENSEMBLE)
    if not found:
        raise StoreError(
            f"{run.root} has no oracle to compare with",
            found="no such folder" if not run.root.is_dir() else f"no {RETRAIN}-SEED.parquet in {run.scores}",
            expected="score tables of models retrained without each group, one a seed",
            fix="guda retrain -c ... --seeds 0,1,2, then guda attribute -c ... --operator retrain "
            "--seed 0,1,2; or name tables with --oracle; without any, guda evaluate --yardstick digits "
            "measures the method on an oracle that comes along",
        )
    return found


def _refuse_renamed(tables: Sequence[File]) -> None:
    """What is taken for the oracle by its name alone has to be it.

    Raises:
        StoreError: A table has the name of another method or seed.
    """
    for path, table in tables:
        (method,), (seed,) = table.methods, table.seeds
        if path.stem != f"{method}-{seed}":
            raise StoreError(
                f"{path} is another table than its name says",
                found=f"scores by {method}, seed {seed}",
                expected=f"scores by {path.stem.rpartition('-')[0]}, seed {path.stem.rpartition('-')[2]}",
                fix=f"call it {method}-{seed}.parquet, or name the oracle's tables with --oracle",
            )


def _refuse_other_recipe(path: Path, table: ScoreTable, first_path: Path, first: ScoreTable) -> None:
    """Seeds of an oracle are averaged, and their spread is its own agreement.

    Raises:
        StoreError: They were made in different ways.
    """
    found, expected = table.record.details.recipe, first.record.details.recipe
    if found != expected:
        name = next(name for name in found if found[name] != expected.get(name))
        raise StoreError(
            f"{path} and {first_path} were not made alike",
            found=f"{name} {found[name]} and {expected.get(name)}",
            expected="oracle seeds that differ in nothing but their seed",
            fix=_ALIKE,
        )


def retrained_tables(run: RunFolder) -> list[Path]:
    """The tables of models retrained without one group each, by seed; there may be none."""
    return _of_seeds(run, RETRAIN)


def _of_seeds(run: RunFolder, method: str) -> list[Path]:
    """The tables ``METHOD-SEED.parquet``, by seed."""
    found = {}
    for path in run.scores.glob(f"{method}-*.parquet"):
        if seed := re.fullmatch(rf"{method}-(\d+)", path.stem):
            found[int(seed[1])] = path
    return [found[seed] for seed in sorted(found)]


def seed_of_subsets(stem: str) -> str | None:
    """The seed of a table of subsets, by its name; None: it is another table."""
    found = re.fullmatch(rf"{RETRAIN}-(\d+)-{SUBSETS}", stem)
    return None if found is None else found[1]


def _other_tables(run: RunFolder, oracles: Sequence[File]) -> tuple[list[File], list[str]]:
    """All other tables of a run folder about the oracle's queries, and why some do not fit it."""
    used = {path.resolve() for path, _ in oracles}
    tables, notes = [], []
    for path in sorted(run.scores.glob("*.parquet")):
        if path.resolve() in used or seed_of_subsets(path.stem) is not None:
            continue
        table = load_table(path)
        if table.record.query_hash != oracles[0][1].record.query_hash:
            continue
        if _same_models(table, oracles):
            notes.append(f"{path.stem} is left out: it is the oracle itself")
            continue
        try:
            tables.append((path, _fitting(path, table, *oracles[0])))
        except StoreError as error:
            notes.append(f"{path.stem} is left out: {reason(error, run)}")
    return tables, notes


def _same_models(table: ScoreTable, oracles: Sequence[File]) -> list[Path]:
    """The oracle's tables that scored a model which this table scored, too."""
    models = _models(table)
    return [path for path, oracle in oracles if models & _models(oracle)]


def _models(table: ScoreTable) -> frozenset[str]:
    """Hashes of the counterfactuals that a table scored, or of the members that they are means of."""
    details = table.record.details
    if isinstance(details, Ensemble):
        return details.weights
    return frozenset(details.counterfactuals.values() if isinstance(details, Likelihood) else ())


def _refuse_the_oracle(methods: Sequence[File], oracles: Sequence[File]) -> None:
    """A model that is compared with itself agrees with the oracle better than anything could.

    Raises:
        StoreError: A table of a method scored models of the oracle.
    """
    for path, table in methods:
        for oracle_path in _same_models(table, oracles):
            raise StoreError(
                f"{path} cannot be compared with {oracle_path}",
                found="scores of the same models",
                expected="counterfactuals of a method, and retrained ones",
                fix="leave it out of --scores: the oracle's agreement with itself is always printed",
            )


def load_table(path: Path) -> ScoreTable:
    """Read a table of one method and one seed.

    Raises:
        StoreError: It is not.
    """
    table = ScoreTable.load(path)
    if len(table.methods) != 1 or len(table.seeds) != 1:
        raise StoreError(
            f"{path} is no table of one method and one seed",
            found=f"methods {', '.join(table.methods) or 'none'}; "
            f"seeds {', '.join(map(str, table.seeds)) or 'none'}",
            expected="one of each, as guda attribute writes it",
            fix="write one file for each with ScoreTable.select and save",
        )
    return table


def _fitting(path: Path, table: ScoreTable, oracle_path: Path, oracle: ScoreTable) -> ScoreTable:
    """The table, if it is about what the oracle is about."""
    for name, what in SAME.items():
        found, expected = getattr(table.record, name), getattr(oracle.record, name)
        if None not in (found, expected) and found != expected:
            raise StoreError(
                f"{path} is about {what} than {oracle_path}",
                found=f"{name} {str(found)[:16]}",
                expected=f"{name} {str(expected)[:16]}",
                fix="score both alike with guda attribute, or leave one out with --scores or --oracle",
            )
    for kind, found_names, expected_names in (
        ("query", table.queries, oracle.queries),
        ("group", table.groups, oracle.groups),
    ):
        found, expected = set(found_names), set(expected_names)
        missing = [name for name in expected_names if name not in found]
        extra = [name for name in found_names if name not in expected] if kind == "query" else []
        if missing or extra:
            what = f"lacks the {kind} '{missing[0]}'" if missing else f"adds the {kind} '{extra[0]}' to those"
            raise StoreError(
                f"{path} {what} of {oracle_path}",
                found=f"{len(found_names)} {PLURAL[kind]}",
                expected=f"the {len(expected_names)} {PLURAL[kind]} of the oracle",
                fix="score both alike with guda attribute, or leave one out with --scores or --oracle",
            )
    return table


def _refuse_shared_names(paths: Sequence[Path]) -> None:
    """Refuse files that would name two methods alike; naming one file twice does no harm."""
    first: dict[str, Path] = {}
    for path in paths:
        other = first.setdefault(path.stem, path)
        if other.resolve() != path.resolve():
            raise ConfigError(
                f"two score tables have the name {path.stem}",
                found=f"{other} and {path}",
                expected="files of different names, which name the methods",
                fix="rename one of them",
            )
