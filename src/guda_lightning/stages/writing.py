"""What ``guda attribute`` writes and shows of scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from guda_lightning.attribution.chunks import Chunk, ChunkedTable, StreamedQueries
from guda_lightning.data import save_queries
from guda_lightning.data.group_names import beside
from guda_lightning.data.query_groups import groups_of_queries
from guda_lightning.makers.costs import say
from guda_lightning.report.artifacts import log_scores
from guda_lightning.report.attribution_log import Attribution, log_attribution
from guda_lightning.report.estimand import estimand
from guda_lightning.report.logged import log_config
from guda_lightning.report.standing import Findings
from guda_lightning.report.summary_text import summary_of_parts
from guda_lightning.report.wandb import closing_runs, stage_loggers
from guda_lightning.scores import ScoreTable, Verdict
from guda_lightning.stages.base import StageTrainer
from guda_lightning.stages.nearest import save_nearest
from guda_lightning.storage.runs import TAKEN, RunFolder
from guda_lightning.storage.sealed import write_tensors
from guda_lightning.types import Weighting


def save_part(maps: Path, chunk: Chunk, scores: ScoreTable) -> None:
    """Keep what was scored; the page shows maps of the first chunk alone."""
    if scores.maps is not None and not chunk.rows.start:
        scores.maps.save(maps)
    scores.save(chunk.part)


def write_table(
    trainer: StageTrainer,
    path: Path,
    table: ChunkedTable,
    requested: StreamedQueries,
    verdicts: Mapping[str, Verdict],
    weighting: Weighting,
) -> None:
    """Write a score table with all that its page needs, and log it; of a long one the first chunk.

    Args:
        trainer: The trainer of the run.
        path: The table.
        table: Its parts, all of them scored.
        requested: The queries.
        verdicts: On its counterfactuals.
        weighting: The weighting that its summary shows.
    """
    run, first = trainer.run_folder, table.chunks[0]
    queries = requested.read(first.rows)
    with closing_runs():
        loggers = stage_loggers(trainer.loggers, run.name, "attribute", f"attribute {path.stem}")
        scores = replace(weighted(ScoreTable.load(first.part), weighting), verdicts=verdicts)
        groups = groups_of_queries(queries, scores.groups, requested.data.class_names)
        shown = Attribution(table=scores, queries=queries, groups=groups)
        card = estimand(table.record, shown.view)
        log_attribution(loggers, shown, "attribution")
        worth = Findings.of(run, scores).standing(table.record, shown.view)
        standing = {"level": worth.level, "headline": worth.headline}
        made = {**shown.config(), **table.record.to_json(), "queries": len(requested), "estimand": card}
        log_config(loggers, {**made, "attribution/standing": standing})
        save_queries(run.queries_of(path), queries, {"of": path.name})
        examples = requested.data.examples()
        named = {beside(name, TAKEN): examples[name] for name in examples}
        write_tensors(run.examples, named)
        whole = ScoreTable.load(first.part)
        save_nearest(trainer, run.nearest_of(path), whole, table.record.hash, queries, requested.data)
        # Last, as a table that is there counts as complete; its parts are kept until then.
        table.save(path, verdicts)
        log_scores(loggers, run, path)
    say(summary(run, [path], weighting))
    if table.several:
        say(f"attribute: page and W&B show the first {len(queries)} of {len(requested)} queries")


def summary(run: RunFolder, paths: Sequence[Path], weighting: Weighting) -> str:
    """The summary of a table, or of tables that differ in their seed."""
    findings = Findings.of(run, ScoreTable.concat([next(ScoreTable.load_parts(path)) for path in paths]))
    parts = zip(*map(ScoreTable.load_parts, paths), strict=True)
    return summary_of_parts((weighted(ScoreTable.concat(part), weighting) for part in parts), findings)


def weighted(table: ScoreTable, weighting: Weighting) -> ScoreTable:
    """What summaries show of a table: one weighting, or the first of a table that has others."""
    return table.select(weighting=weighting if weighting in table.weightings else table.weightings[0])
