"""The page of a run folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from safetensors.torch import load_file
from torch import Tensor

from guda_lightning.counterfactuals import ENSEMBLE, RETRAIN, CounterfactualRecord, CounterfactualStore
from guda_lightning.data import load_queries, query_hash
from guda_lightning.data.group_names import name_beside
from guda_lightning.errors import GudaError, StoreError
from guda_lightning.posteriors import KINDS, PosteriorStore
from guda_lightning.report.exports import COLUMNS, write_csv, write_json
from guda_lightning.report.facts import facts_of, run_facts
from guda_lightning.report.nearest import NearestImages
from guda_lightning.report.noise_levels import NoiseLevels
from guda_lightning.report.page import Page, PageTable, write_page
from guda_lightning.report.run_tables import Family, command_of, families
from guda_lightning.report.screening_text import screening_facts
from guda_lightning.report.sections import sections_of
from guda_lightning.report.standing import Findings
from guda_lightning.report.without_section import Without
from guda_lightning.scores import ScoreRecord, ScoreTable
from guda_lightning.scores.maps import GroupMaps
from guda_lightning.storage.foreign import refuse_foreign_file
from guda_lightning.storage.runs import TAKEN, RunFolder
from guda_lightning.storage.seals import fault
from guda_lightning.storage.weights_record import WeightsRecord
from guda_lightning.types import Queries

Format = Literal["html", "json", "csv"]
_WRITERS: Mapping[Format, Callable[[Path, Page], Path]] = {
    "html": write_page,
    "json": write_json,
    "csv": write_csv,
}
_WRITTEN: Mapping[Format, tuple[str, str]] = {  # by what one knows that it is ours
    "html": ("index.html", 'content="guda-lightning '),
    "json": ("report.json", '"guda-lightning '),
    "csv": ("report.csv", ",".join(COLUMNS)),
}


def report_run(root: Path, scores: Path | None = None, *beside: Path, format: Format = "html") -> Path:
    """Write RUN/report/index.html, or its numbers as report.json or report.csv, from what a run folder holds.

    All tables of the same queries and groups are on the page, behind one switch; others are named with the
    command that shows them. Of a table that was scored in chunks of queries, the first chunk is shown.

    Args:
        root: The run folder.
        scores: The score table to begin with; if left out, the newest one of a method, or else of the oracle,
            with those of its other seeds: then the page shows the mean over seeds.
        *beside: Score tables of the same queries that come next.
        format: What to write.

    Returns:
        The file.

    Raises:
        StoreError: There is no such folder or table, something that a named table was made from is gone, or
            it is about other queries; or the file is the user's.
    """
    run = RunFolder(root)
    name, mark = _WRITTEN[format]
    refuse_foreign_file(run.report / name, "guda report", mark)
    found, others = families(run, scores or newest_table(run), beside, alone=scores is not None)
    first = found[0]
    examples = _examples(run, first.path)
    channels, height, width = next(iter(examples.values())).shape[1:]
    shape = (channels, height, width)
    named = 1 + len(beside)
    tables = [_page_table(run, family, shape) for family in found[:named]]
    for family in found[named:]:
        try:
            tables.append(_page_table(run, family, shape))
        except GudaError as error:
            others[family.name] = (error.problem, command_of(run, family.path))
    page = Page(
        title=run.name,
        queries=_queries(run, first.path, first.first.record, shape),
        tables=tables,
        examples=examples,
        facts=run_facts(run, first.first),
        out_of=sum(chunk.queries for chunk in first.first.record.chunks),
        others=others,
        sections=sections_of(run, first.first),
    )
    return _WRITERS[format](run.report, page)


def _page_table(run: RunFolder, family: Family, shape: tuple[int, int, int]) -> PageTable:
    """A table with all that belongs to it.

    Raises:
        StoreError: What it was made from is gone, or something beside it is damaged.
    """
    table, path, joined = family.first, family.path, family.joined
    made = _made(run, path, table)
    of_all = {one.weights_hash: one for file, part in family.tables.items() for one in _made(run, file, part)}
    findings, without = _findings(run, joined), Without.of(run, table, shape)
    facts = facts_of(family, list(of_all.values())) | screening_facts(run, table)
    if findings.placebo is None and ScoreTable.exists(run.placebo / path.name):
        facts["Placebo groups"] = "scored again since"
    if without is None and Without.exists(run):
        facts["With and without"] = "drawn, but not by this method from the noise of the queries"
    if stale := _judged_by_others(run, list(family.tables.values())):
        facts["Verdicts"] = f"on {stale}: by a posterior that was replaced since; run guda attribute again"
    maps = _maps(run, path, table.record)
    if maps is None and run.maps_of(path).is_file():
        facts["Maps"] = "of other scores"
    return PageTable(
        name=family.name,
        table=joined,
        findings=findings,
        facts=facts,
        curves=[row for one in made if isinstance(one, CounterfactualRecord) for row in one.history],
        without=without,
        maps=maps,
        nearest=_nearest(run, path, table.record),
        levels=NoiseLevels.of(run, list(family.tables.values())),
    )


def _findings(run: RunFolder, table: ScoreTable) -> Findings:
    """What was found about a table, with a note where tables that were compared changed since."""
    findings = Findings.of(run, table)
    if findings.evaluation is None:
        return findings
    found = findings.evaluation
    paths = {name: run.scores / f"{name}.parquet" for name in found.tables}
    changed = [
        name
        for name, digest in found.tables.items()
        if paths[name].is_file() and ScoreTable.load_record(paths[name]).hash != digest
    ]
    note = [f"Scored again since: {', '.join(changed)}. Run guda evaluate again."] if changed else []
    noted = replace(found, record={**found.record, "notes": [*note, *found.record["notes"]]})
    return replace(findings, evaluation=noted)


def _nearest(run: RunFolder, path: Path, record: ScoreRecord) -> NearestImages | None:
    """The training images that look most like the queries; none where they are those of other scores."""
    if not run.nearest_of(path).is_file():
        return None
    nearest = NearestImages.load(run.nearest_of(path))
    return nearest if nearest.of == record.hash else None


def _examples(run: RunFolder, path: Path) -> dict[str, Tensor]:
    """A few training images of every group, ``[images, channels, height, width]`` each."""
    if not run.examples.is_file():
        raise _lost(run, path, f"no file {run.examples}", "a few training images of every group")
    wrong = fault(run.examples)
    if wrong is not None:
        raise _lost(run, path, f"{run.examples}: {wrong.found}", "a few training images of every group")
    examples = load_file(run.examples)
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
