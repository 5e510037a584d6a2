"""The score tables of a run folder that one page shows, and those that it names."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from guda_lightning.errors import GudaError, StoreError
from guda_lightning.scores import ScoreRecord, ScoreTable
from guda_lightning.scores.kinds import ModelDetails
from guda_lightning.storage.runs import RunFolder

MAX_SCORES = 2_000_000  # on a page: about 40 MB


@dataclass(frozen=True, eq=False)
class Family:
    """Tables that differ in nothing but a seed, of which a page shows the mean; often a single one.

    Attributes:
        tables: By their files, in the order of seeds; of a table that was scored in chunks the first one.
    """

    tables: Mapping[Path, ScoreTable]

    @property
    def path(self) -> Path:
        """The file of the first one."""
        return next(iter(self.tables))

    @property
    def first(self) -> ScoreTable:
        """The first one."""
        return next(iter(self.tables.values()))

    @property
    def joined(self) -> ScoreTable:
        """All of them in one table."""
        return ScoreTable.concat(list(self.tables.values()))

    @property
    def name(self) -> str:
        """What to call it."""
        return ", ".join(path.stem for path in self.tables)


def families(
    run: RunFolder, first: Path, beside: Sequence[Path], alone: bool
) -> tuple[list[Family], dict[str, tuple[str, str]]]:
    """The tables that a page shows, and why the others of the run are not on it.

    Args:
        run: The run folder.
        first: The table to begin with.
        beside: Tables of the same queries that come next.
        alone: Whether to show the first one without its other seeds.

    Returns:
        Families in order, and for each other table by name: why it is left out, and what shows it.

    Raises:
        StoreError: A table that was named cannot be read, or is about other queries.
    """
    table = shown_part(first)
    found = [Family({first: table} if alone else _with_seeds(run, first, table))]
    found += [Family({other: _of_the_same(table, other)}) for other in beside]
    taken = {path.resolve() for family in found for path in family.tables}
    room = MAX_SCORES - sum(len(one) for family in found for one in family.tables.values())
    others: dict[str, tuple[str, str]] = {}
    for path in sorted(run.scores.glob("*.parquet")):
        if path.resolve() in taken:
            continue
        try:
            part = shown_part(path)
            why = _unlike(table, part)
            family = None if why else Family(_with_seeds(run, path, part))
        except GudaError as error:
            why, family = error.problem, None
        if family is not None and sum(map(len, family.tables.values())) > room:
            why, family = "left out to keep the page small", None
        if family is None:
            others[path.stem] = (why, command_of(run, path))
            continue
        fresh = {one: part for one, part in family.tables.items() if one.resolve() not in taken}
        found.append(Family(fresh))
        taken |= {one.resolve() for one in fresh}
        room -= sum(map(len, fresh.values()))
    return found, others


def command_of(run: RunFolder, table: Path) -> str:
    """The command that shows a table, as it is typed where the page was made."""
    return shlex.join(["guda", "report", str(run.root), "--scores", str(run.scores / table.name)])


def shown_part(path: Path) -> ScoreTable:
    """What a page shows of a table: all of it, or the first chunk of queries."""
    chunked = ScoreTable.load_record(path).chunks
    return next(ScoreTable.load_parts(path)) if chunked else ScoreTable.load(path)


def _unlike(table: ScoreTable, other: ScoreTable) -> str:
    """Why a table cannot stand beside another one; empty where it can."""
    if other.record.query_hash != table.record.query_hash:
        return "about other queries"
    if other.per != table.per:
        return f"scores per {other.per}"
    if set(other.groups) != set(table.groups):
        return "about other groups"
    return "" if set(other.queries) == set(table.queries) else "scored in other chunks of queries"


def _of_the_same(table: ScoreTable, path: Path) -> ScoreTable:
    """A table about the same queries.

    Raises:
        StoreError: It is about others.
    """
    other = shown_part(path)
    if other.record.query_hash != table.record.query_hash:
        raise StoreError(
            f"{path} cannot stand on the page of {'+'.join(table.methods)}",
            found=f"scores of other queries, {str(other.record.query_hash)[:8]}",
            expected=f"scores of the queries {str(table.record.query_hash)[:8]}",
            fix="score the same queries with both, or report each by itself",
        )
    return other


def _with_seeds(run: RunFolder, path: Path, table: ScoreTable) -> dict[Path, ScoreTable]:
    """A table with those that differ from it in nothing but the seed of what was made for it."""
    if len(table.methods) != 1 or len(table.seeds) != 1:
        return {path: table}
    start, rest = f"{table.methods[0]}-", path.stem.removeprefix(f"{table.methods[0]}-{table.seeds[0]}")
    found: dict[int, Path] = {}
    for other in run.scores.glob(f"{start}*{rest}.parquet"):
        seed = other.stem.removeprefix(start).removesuffix(rest) if rest else other.stem.removeprefix(start)
        if other != path and seed.isdecimal() and _alike(ScoreTable.load_record(other), table.record):
            found[int(seed)] = other
    return {path: table, **{found[seed]: shown_part(found[seed]) for seed in sorted(found)}}


def _alike(one: ScoreRecord, other: ScoreRecord) -> bool:
    """Whether two records may be those of two seeds."""
    if not (isinstance(one.details, ModelDetails) and isinstance(other.details, ModelDetails)):
        return False
    return one.details.recipe == other.details.recipe and all(
        getattr(one, name) == getattr(other, name)
        for name in ("query_hash", "encoders", "provenance", "scoring", "group_sizes", "chunks", "per")
    )
