"""Score tables of ``guda attribute``: written chunk by chunk, judged, and gone on with after a kill."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from guda_lightning.attribution import AttributionContext, Attributor, FittedAttributor
from guda_lightning.attribution.chunks import ChunkedTable, StreamedQueries
from guda_lightning.distributed.execution import Execution
from guda_lightning.distributed.ranks import Ranks
from guda_lightning.distributed.strategies import start_processes
from guda_lightning.makers.costs import bar_of, evaluation_seconds, is_timed, say, say_cost
from guda_lightning.makers.locking import locked_by
from guda_lightning.progress_bar import Bar
from guda_lightning.report.attribution_log import require_charts
from guda_lightning.scores import ScoreTable, Verdict
from guda_lightning.stages.base import StageTrainer
from guda_lightning.stages.choices import table_about, table_of
from guda_lightning.stages.costs import Meter, TableCosts
from guda_lightning.stages.judging import Judging
from guda_lightning.stages.writing import save_part, summary, weighted, write_table
from guda_lightning.storage.leftovers import discard
from guda_lightning.storage.runs import RunFolder
from guda_lightning.types import Weighting


@dataclass(frozen=True)
class Request:
    """What a user wants scored, and how.

    Attributes:
        queries: The queries.
        path: Where the user has them; None: the run's own.
        name: What the user calls the tables.
        hparams: Which of several hyper-parameters of counterfactuals were chosen; None: there is one kind.
        context: Model, data and store.
        batch_size: Network evaluations at a time.
        weighting: That of the printed summary.
        meter: Counts what it costs.
    """

    queries: StreamedQueries
    path: Path | None
    name: str | None
    hparams: str | None
    context: AttributionContext
    batch_size: int
    weighting: Weighting
    meter: Meter


def score_all(trainer: StageTrainer, attributors: Sequence[Attributor], request: Request) -> list[Path]:
    """Write one score table for each attributor; returns their files."""
    with bar_of(trainer, "attribute", "evaluations", 0) as bar:

        def on_evaluations(count: int) -> None:
            request.meter.count(count)
            bar.update(count * trainer.world_size)

        execution = Execution(trainer.strategy.root_device, on_evaluations=on_evaluations)
        context = _spread(trainer, attributors, replace(request.context, execution=execution))
        request = replace(request, context=context)
        fitted = [one.fit(context) for one in attributors]
        paths = [_score(trainer, one, request, bar) for one in fitted]
        if len(paths) > 1:
            say(summary(trainer.run_folder, paths, request.weighting))
        return paths


def _spread(
    trainer: StageTrainer, attributors: Sequence[Attributor], context: AttributionContext
) -> AttributionContext:
    """Start the processes that share the work; what does not fit is refused before they are there."""
    if trainer.world_size > 1:
        for one in attributors:
            one.fit(context)
    start_processes(trainer)
    return replace(context, execution=replace(context.execution, ranks=Ranks.of(trainer)))


def _score(trainer: StageTrainer, attributor: FittedAttributor, request: Request, bar: Bar) -> Path:
    """Write one score table, unless it is complete; returns its file."""
    run = trainer.run_folder
    path = table_of(run, attributor.method, attributor.seed, request.path, request.name)
    with locked_by(request.context.execution.ranks, run, path):
        return _score_alone(trainer, attributor, request, bar, path)


def _score_alone(
    trainer: StageTrainer, attributor: FittedAttributor, request: Request, bar: Bar, path: Path
) -> Path:
    ranks, run = request.context.execution.ranks, trainer.run_folder
    parts = run.parts_of(path)
    attributor = attributor.keeping(parts)
    table = ranks.broadcast(ChunkedTable.of(attributor, request.queries, parts))
    path = ranks.broadcast(table_about(path, request.path, table.record, request.hparams))
    judging = Judging.of(attributor, request.queries.data)
    if ranks.broadcast(ScoreTable.is_complete(path, table.record)):
        if judging is not None and not ranks.broadcast(judging.done(path)):
            _judge_again(path, judging, request, bar)
        say(summary(run, [path], request.weighting))
        say(f"attribute: {path} is complete, skipped")
    else:
        if ScoreTable.exists(path) and ScoreTable.load_record(path).noise != table.record.noise:
            say(f"attribute: {path} is made again: its noise followed from the names of its queries")
        require_charts(trainer.loggers)
        left = table.evaluations + attributor.preparation()
        bar.reset(total=left + (0 if judging is None else judging.evaluations))
        _say_rest(trainer, attributor, request, table)
        count, first = len(request.queries), ranks.rank == 0
        costs = TableCosts(run, path, attributor, table.record, count, request.meter, writes=first)
        with _preparing(attributor, ranks, run), costs.preparing():
            attributor.prepare()
        notes = []
        for chunk in table.left:
            with costs.scoring():
                scores = chunk.score(attributor, request.queries)
            ranks.on_rank_zero(partial(save_part, run.maps_of(path), chunk, scores))
            which = f"{chunk.name}, " if table.several else ""
            notes += [f"{which}{note}" for note in scores.notes]
        verdicts = {} if judging is None else _judged(judging, table.parts(), request)
        ranks.on_rank_zero(
            partial(write_table, trainer, path, table, request.queries, verdicts, request.weighting)
        )
        for note in notes:
            say(note)
        say(f"attribute: {path} written")
    if trainer.is_global_zero:
        discard(parts)
    return path


@contextmanager
def _preparing(attributor: FittedAttributor, ranks: Ranks, run: RunFolder) -> Iterator[None]:
    """Other tables may share what an attributor keeps of the data: one command at a time makes it."""
    with ExitStack() as stack:
        for path in sorted(one for one in attributor.kept() if one.is_relative_to(run.features)):
            stack.enter_context(locked_by(ranks, run, path))
        yield


def _judged(judging: Judging, parts: Iterable[ScoreTable], request: Request) -> dict[str, Verdict]:
    say(
        f"attribute: verdicts on {len(judging.attributor.groups)} counterfactuals, at most "
        f"{judging.evaluations} evaluations on training samples"
    )
    return judging.verdicts(weighted(part, request.weighting) for part in parts)


def _judge_again(path: Path, judging: Judging, request: Request, bar: Bar) -> None:
    """Give a complete table the verdicts of today's posterior; its scores stay."""
    bar.reset(total=judging.evaluations)
    verdicts = _judged(judging, ScoreTable.load_parts(path), request)

    def write() -> None:
        ScoreTable.save_parts(path, ScoreTable.load_parts(path), ScoreTable.load_record(path), verdicts)

    request.context.execution.ranks.on_rank_zero(write)


def _say_rest(
    trainer: StageTrainer, attributor: FittedAttributor, request: Request, table: ChunkedTable
) -> None:
    """Say what is scored already, and what the rest will cost."""
    queries, context = request.queries, request.context
    left = sum(len(chunk.rows) for chunk in table.left)
    if left < len(queries):
        say(f"attribute: {len(queries) - left} of {len(queries)} queries are scored already")
    evaluations = table.evaluations + attributor.preparation()
    if not evaluations:
        return
    each = None
    if is_timed(trainer):
        where = (request.batch_size, trainer.strategy.root_device)
        each = evaluation_seconds(context.full.model, queries.data, *where)
    say_cost(
        f"attribute: {left} queries, {len(attributor.groups)} groups, {evaluations} network evaluations",
        None if each is None else each * evaluations / trainer.world_size,
    )
