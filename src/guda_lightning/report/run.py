"""The page of a run folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from guda_lightning.counterfactuals import RETRAIN, CounterfactualRecord, CounterfactualStore
from guda_lightning.data import load_queries, query_hash
from guda_lightning.data.group_names import name_beside
from guda_lightning.errors import StoreError
from guda_lightning.evaluation.placebo_test import random_groups
from guda_lightning.evaluation.result import Evaluation
from guda_lightning.posteriors import GUIDANCE, ClassifierStore
from guda_lightning.report.facts import facts_of
from guda_lightning.report.page import Page, write_page
from guda_lightning.report.placebo_section import Placebo
from guda_lightning.report.without_section import Without
from guda_lightning.scores import ScoreRecord, ScoreTable
from guda_lightning.scores.maps import GroupMaps
from guda_lightning.storage.runs import TAKEN, RunFolder
from guda_lightning.storage.stored import WeightsRecord
from guda_lightning.types import Queries


def report_run(root: Path, scores: Path | None = None) -> Path:
    """Write RUN/report/index.html from what the other stages left in a run folder.

    Args:
        root: The run folder.
        scores: The score table to show; the newest one of a method, or else of the oracle, if left out. Of
            one that was scored in chunks of queries, the first chunk is shown.

    Returns:
        The page.

    Raises:
        StoreError: There is no such folder or table, or something that the table was made from is gone.
    """
    run = RunFolder(root)
    path = scores or _newest(run)
    chunks = ScoreTable.load_record(path).chunks
    table = next(ScoreTable.load_parts(path)) if chunks else ScoreTable.load(path)
    examples = _examples(run, path)
    channels, height, width = next(iter(examples.values())).shape[1:]
    shape = (channels, height, width)
    made = _made(run, path, table)
    facts = facts_of(run, table, made)
    placebo, without = _placebo(run, path, table), Without.of(run, table, shape)
    if placebo is None and ScoreTable.exists(run.placebo / path.name):
        facts["Placebo groups"] = "scored again since"
    if without is None and Without.exists(run):
        facts["With and without"] = "drawn, but not from the full model and the noise of the queries"
    maps = _maps(run, path, table.record)
    if maps is None and run.maps_of(path).is_file():
        facts["Maps"] = "of other scores"
    page = Page(
        run.name,
        queries=_queries(run, path, table.record, shape),
        table=table,
        examples=examples,
        curves=[row for one in made if isinstance(one, CounterfactualRecord) for row in one.history],
        facts=facts,
        out_of=sum(chunk.queries for chunk in chunks),
        agreement=_evaluation(run, table),
        placebo=placebo,
        without=without,
        maps=maps,
    )
    return write_page(run.report, page)


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
    """What was made for a table: counterfactuals, or a classifier; a similarity needs nothing."""
    weights = table.record.details.weights
    stores = CounterfactualStore(run.store), ClassifierStore(run.store)
    made = [one for store in stores for one in store.records() if one.weights_hash in weights]
    if len(made) < len(weights):
        found = f"{len(made)} of its {len(weights)} counterfactuals or classifiers in {run.store}"
        raise _lost(run, path, found, "all of them")
    return made


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
    stage = {RETRAIN: "retrain", GUIDANCE: "guide"}.get(table.stem.partition("-")[0], "unlearn")
    return StoreError(
        f"{run.root} no longer holds what {table} was made from",
        found=found,
        expected=expected,
        fix=f"restore it, or remove {table} and run `guda {stage}` and `guda attribute` again",
    )


def _newest(run: RunFolder) -> Path:
    tables = sorted(run.scores.glob("*.parquet"), key=lambda path: path.stat().st_mtime)
    of_methods = [path for path in tables if not path.stem.startswith(f"{RETRAIN}-")]
    if not tables:
        raise StoreError(
            f"{run.root} has no score table",
            found="no such folder" if not run.root.is_dir() else f"no .parquet file in {run.scores}",
            expected="the run folder of a finished `guda attribute`",
            fix="run `guda attribute` with the configuration of this run first, or correct the path",
        )
    return (of_methods or tables)[-1]
