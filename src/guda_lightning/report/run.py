"""The page of a run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from guda_lightning.counterfactuals import ENSEMBLE, RETRAIN, CounterfactualRecord, CounterfactualStore
from guda_lightning.data import load_queries, query_hash
from guda_lightning.data.group_names import name_beside
from guda_lightning.errors import StoreError
from guda_lightning.evaluation.placebo_test import random_groups
from guda_lightning.evaluation.result import Evaluation
from guda_lightning.posteriors import KINDS, PosteriorStore
from guda_lightning.report.facts import facts_of
from guda_lightning.report.page import Page, write_page
from guda_lightning.report.placebo_section import Placebo
from guda_lightning.report.screening_text import screening_facts
from guda_lightning.report.sections import sections_of
from guda_lightning.report.without_section import Without
from guda_lightning.scores import ScoreRecord, ScoreTable
from guda_lightning.scores.kinds import ModelDetails
from guda_lightning.scores.maps import GroupMaps
from guda_lightning.storage.runs import TAKEN, RunFolder
from guda_lightning.storage.stored import WeightsRecord
from guda_lightning.types import Queries


def report_run(root: Path, scores: Path | None = None, *beside: Path) -> Path:
    """Write RUN/report/index.html from what the other stages left in a run folder.

    Args:
        root: The run folder.
        scores: The score table to show; if left out, the newest one of a method, or else of the oracle, with
            those of its other seeds: then the page shows the mean over seeds. Of one that was scored in
            chunks of queries, the first chunk is shown.
        *beside: Score tables of the same queries, which the page lets one switch to.

    Returns:
        The page.

    Raises:
        StoreError: There is no such folder or table, something that the table was made from is gone, or a
            table beside it is about other queries.
    """
    run = RunFolder(root)
    path = scores or newest_table(run)
    table, chunks = _shown(path), ScoreTable.load_record(path).chunks
    seeds = {path: table} if scores else {path: table, **_other_seeds(run, path, table)}
    agreement = _evaluation(run, table)
    examples = _examples(run, path)
    channels, height, width = next(iter(examples.values())).shape[1:]
    shape = (channels, height, width)
    paired = {other: _of_the_same(table, other) for other in beside}
    made = _made(run, path, table)
    unlearnt = [*made, *(one for file, other in paired.items() for one in _made(run, file, other))]
    facts = facts_of(run, table, made) | screening_facts(run, table)
    placebo, without = _placebo(run, path, table), Without.of(run, table, shape)
    if placebo is None and ScoreTable.exists(run.placebo / path.name):
        facts["Placebo groups"] = "scored again since"
    if without is None and Without.exists(run):
        facts["With and without"] = "drawn, but not from the full model and the noise of the queries"
    if stale := _judged_by_others(run, [*seeds.values(), *paired.values()]):
        facts["Verdicts"] = f"on {stale}: by a posterior that was replaced since; run guda attribute again"
    maps = _maps(run, path, table.record)
    if maps is None and run.maps_of(path).is_file():
        facts["Maps"] = "of other scores"
    page = Page(
        run.name,
        queries=_queries(run, path, table.record, shape),
        table=ScoreTable.concat(list(seeds.values())),
        beside=list(paired.values()),
        examples=examples,
        curves=[row for one in unlearnt if isinstance(one, CounterfactualRecord) for row in one.history],
        facts=facts,
        out_of=sum(chunk.queries for chunk in chunks),
        agreement=agreement,
        evaluated={} if agreement is None else _evaluated(agreement, {**seeds, **paired}),
        placebo=placebo,
        without=without,
        maps=maps,
        sections=sections_of(run, table),
    )
    return write_page(run.report, page)


def _shown(path: Path) -> ScoreTable:
    """What a page shows of a table: all of it, or the first chunk of queries."""
    chunked = ScoreTable.load_record(path).chunks
    return next(ScoreTable.load_parts(path)) if chunked else ScoreTable.load(path)


def _of_the_same(table: ScoreTable, path: Path) -> ScoreTable:
    """A table about the same queries.

    Raises:
        StoreError: It is about others.
    """
    other = _shown(path)
    if other.record.query_hash != table.record.query_hash:
        raise StoreError(
            f"{path} cannot stand on the page of {'+'.join(table.methods)}",
            found=f"scores of other queries, {str(other.record.query_hash)[:8]}",
            expected=f"scores of the queries {str(table.record.query_hash)[:8]}",
            fix="score the same queries with both, or report each by itself",
        )
    return other


def _other_seeds(run: RunFolder, path: Path, table: ScoreTable) -> dict[Path, ScoreTable]:
    """Tables that differ from one in nothing but the seed of what was made for it."""
    if len(table.methods) != 1 or len(table.seeds) != 1:
        return {}
    start, rest = f"{table.methods[0]}-", path.stem.removeprefix(f"{table.methods[0]}-{table.seeds[0]}")
    found: dict[int, Path] = {}
    for other in run.scores.glob(f"{start}*{rest}.parquet"):
        seed = other.stem.removeprefix(start).removesuffix(rest) if rest else other.stem.removeprefix(start)
        if other != path and seed.isdecimal() and _alike(ScoreTable.load_record(other), table.record):
            found[int(seed)] = other
    return {found[seed]: _shown(found[seed]) for seed in sorted(found)}


def _alike(one: ScoreRecord, other: ScoreRecord) -> bool:
    """Whether two records may be those of two seeds."""
    if not (isinstance(one.details, ModelDetails) and isinstance(other.details, ModelDetails)):
        return False
    return one.details.recipe == other.details.recipe and all(
        getattr(one, name) == getattr(other, name)
        for name in ("query_hash", "encoders", "provenance", "scoring", "group_sizes", "chunks", "per")
    )


def _evaluated(evaluation: Evaluation, tables: Mapping[Path, ScoreTable]) -> dict[tuple[str, int], str]:
    """What an evaluation calls the scores of each method and seed, if they are still those it compared."""
    return {
        (table.methods[0], table.seeds[0]): path.stem
        for path, table in tables.items()
        if evaluation.tables.get(path.stem) == table.record.hash
    }


def _examples(run: RunFolder, path: Path) -> dict[str, Tensor]:
    """A few training images of every group, ``[images, channels, height, width]`` each."""
    if not run.examples.is_file():
        raise _lost(run, path, f"no file {run.examples}", "a few training images of every group")
    try:
        examples = load_file(run.examples)
    except SafetensorError as error:
        raise _lost(run, path, f"{run.examples}: {error}", "a few training images of every group") from error
    if not examples:
        raise _lost(run, path, f"no image in {run.examples}", "a few training images of every group")
    return {name_beside(key, TAKEN): images for key, images in examples.items()}


def _queries(run: RunFolder, path: Path, record: ScoreRecord, shape: tuple[int, int, int]) -> Queries:
    """The queries that the page shows: all, or those of the first chunk."""
    queries = load_queries(run.queries_of(path), shape)
    if query_hash(queries) != (record.chunks[0] if record.chunks else record).query_hash:
        raise _lost(run, path, f"other images in {run.queries_of(path)}", "the queries of the table")
    return queries


def _maps(run: RunFolder, path: Path, record: ScoreRecord) -> GroupMaps | None:
    """Which part of the shown queries came from which group, unless that is not known for these scores."""
    if not run.maps_of(path).is_file():
        return None
    maps = GroupMaps.load(run.maps_of(path))
    shown = record.chunks[0].query_hash if record.chunks else record.query_hash
    return maps if maps.of == replace(record, query_hash=shown, chunks=()).hash else None


def _made(run: RunFolder, path: Path, table: ScoreTable) -> Sequence[WeightsRecord]:
    """What was made for a table: counterfactuals, or a posterior; a similarity needs nothing."""
    weights = table.record.details.weights
    stores = CounterfactualStore(run.store), PosteriorStore(run.store)
    made = [one for store in stores for one in store.records() if one.weights_hash in weights]
    if len(made) < len(weights):
        found = f"{len(made)} of its {len(weights)} counterfactuals or posteriors in {run.store}"
        raise _lost(run, path, found, "all of them")
    return made


def _judged_by_others(run: RunFolder, tables: Sequence[ScoreTable]) -> str:
    """Methods whose verdicts follow from a posterior that the store no longer holds; may be empty."""
    held = {one.weights_hash for one in PosteriorStore(run.store).records()}
    found = {
        "+".join(table.methods): None
        for table in tables
        for verdict in table.verdicts.values()
        if verdict.posterior not in (None, *held)
    }
    return ", ".join(found)


def _placebo(run: RunFolder, path: Path, table: ScoreTable) -> Placebo | None:
    """What ``guda placebo`` found about a table, unless the table was scored again since."""
    if not ScoreTable.exists(run.placebo / path.name):
        return None
    random = ScoreTable.load(run.placebo / path.name)
    if random_groups(random).of != table.record.hash:
        return None
    return Placebo.of(ScoreTable.load(path), random)  # of all queries, whichever the page shows


def _evaluation(run: RunFolder, table: ScoreTable) -> Evaluation | None:
    """What ``guda evaluate`` found about a table's queries, with a note where tables changed since."""
    if not Evaluation.exists(run.evaluation):
        return None
    found = Evaluation.load(run.evaluation)
    if found.record.get("query_hash") != table.record.query_hash:
        return None
    paths = {name: run.scores / f"{name}.parquet" for name in found.tables}
    changed = [
        name
        for name, digest in found.tables.items()
        if paths[name].is_file() and ScoreTable.load_record(paths[name]).hash != digest
    ]
    note = [f"Scored again since: {', '.join(changed)}. Run guda evaluate again."] if changed else []
    return replace(found, record={**found.record, "notes": [*note, *found.record["notes"]]})


def _lost(run: RunFolder, table: Path, found: str, expected: str) -> StoreError:
    method = table.stem.partition("-")[0]
    stage = "retrain" if method == RETRAIN else "guide" if method in KINDS else "unlearn"
    return StoreError(
        f"{run.root} no longer holds what {table} was made from",
        found=found,
        expected=expected,
        fix=f"restore it, or remove {table} and run `guda {stage}` and `guda attribute` again",
    )


def newest_table(run: RunFolder) -> Path:
    """The newest score table of a method, or else of the oracle.

    Raises:
        StoreError: There is none.
    """
    tables = sorted(run.scores.glob("*.parquet"), key=lambda path: path.stat().st_mtime)
    of_methods = [path for path in tables if not path.stem.startswith((f"{RETRAIN}-", f"{ENSEMBLE}-"))]
    if not tables:
        raise StoreError(
            f"{run.root} has no score table",
            found="no such folder" if not run.root.is_dir() else f"no .parquet file in {run.scores}",
            expected="the run folder of a finished `guda attribute`",
            fix="run `guda attribute` with the configuration of this run first, or correct the path",
        )
    return (of_methods or tables)[-1]
