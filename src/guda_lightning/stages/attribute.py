"""``guda attribute``: scores of queries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable

from guda_lightning.attribution import (
    AttributionContext,
    Attributor,
    CounterfactualAttributor,
    FittedAttributor,
)
from guda_lightning.attribution.chunks import ChunkedTable, StreamedQueries
from guda_lightning.attribution.screening import Screen
from guda_lightning.counterfactuals import SUBSETS, CounterfactualKey
from guda_lightning.data import GroupDataModule
from guda_lightning.diffusion.adapters import Lora
from guda_lightning.distributed.execution import Execution
from guda_lightning.distributed.ranks import Ranks
from guda_lightning.distributed.strategies import start_processes
from guda_lightning.makers.costs import bar_of, evaluation_seconds, is_timed, say, say_cost
from guda_lightning.makers.locking import locked_by
from guda_lightning.progress_bar import Bar
from guda_lightning.report.attribution_log import require_charts
from guda_lightning.scores import ScoreTable, Scoring, Verdict
from guda_lightning.stages.base import StageTrainer
from guda_lightning.stages.choices import (
    ATTRIBUTOR,
    SCREEN,
    chosen_coalitions,
    chosen_groups,
    chosen_seeds,
    refuse_choices,
    table_about,
    table_of,
)
from guda_lightning.stages.costs import Meter, TableCosts
from guda_lightning.stages.judging import Judging
from guda_lightning.stages.screened import (
    TrueScores,
    refuse_making,
    say_missed,
    screening_attributor,
    screening_of,
)
from guda_lightning.stages.unlearn import unlearn
from guda_lightning.stages.writing import save_part, summary, weighted, write_table
from guda_lightning.storage.leftovers import discard
from guda_lightning.storage.runs import RunFolder
from guda_lightning.types import Weighting
from guda_lightning.unlearning import Objective
from guda_lightning.unlearning.module import default_optimizer


@dataclass(frozen=True)
class _Request:
    """What a user wants scored, and how."""

    queries: StreamedQueries
    path: Path | None
    name: str | None
    hparams: str | None
    context: AttributionContext
    batch_size: int
    weighting: Weighting
    meter: Meter


def attribute(
    trainer: StageTrainer,
    model: LightningModule,
    datamodule: GroupDataModule,
    queries: Path | None = None,
    operator: str | None = None,
    scoring: Scoring = Scoring(),  # noqa: B008  (frozen)
    weighting: Weighting = "elbo",
    groups: list[str] | str | None = None,
    subsets: int | str | None = None,
    kept: float = 0.5,
    seed: list[int] | int | str | None = None,
    hparams: str | None = None,
    resize: bool = False,
    full: Path | None = None,
    attributor: Attributor | None = None,
    screen: str | None = None,
    objective: Objective | None = None,
    steps: int = 60,
    optimizer: OptimizerCallable = default_optimizer,
    lr_scheduler: LRSchedulerCallable | None = None,
    lora: Lora | None = None,
    name: str | None = None,
) -> list[Path]:
    """Score queries against every group's counterfactual and write RUN/scores.

    Any number of queries: they are read and scored in chunks of at most 1024, fewer where pictures are
    large or groups and timesteps many, so that a chunk takes at most about 1 GiB; the list of all takes
    less than 1 kB a query. What is scored is written before the next chunk begins; run again, the stage
    goes on there. Beyond one chunk, page and W&B show the first one; the table has them all.

    Each counterfactual is then tried on a few training samples and judged valid, doubtful or invalid, with
    the reason; where there is a posterior (``guda guide``), by what it predicts.

    Args:
        trainer: The trainer of the run.
        model: The full model's module.
        datamodule: The training data with its groups.
        queries: An image or a folder of images, whose name is then part of the table's, followed by a hash
            where other queries have it already; RUN/queries if left out.
        operator: Which counterfactuals of RUN/store, by their objective's name, such as ``guided``, or the
            kind of a posterior, such as ``guidance``; may be left out where the store holds those of one
            kind.
        scoring: Timesteps, draws, seed, batch size and precision.
        weighting: The weighting that the printed summary shows; the file holds all. A table without it, such
            as that of another attributor, is summed up by its first one.
        groups: Names of the groups to score, such as ``3,7`` or, removed together, ``3+7``; all groups if
            left out.
        subsets: Instead, what subsets of the groups leave out, as ``guda retrain --subsets`` trained them:
            a number or a text file. The tables are named ``subsets``, unless ``name`` says otherwise.
        kept: Share of the groups that stay in subsets that are drawn.
        seed: Seeds that the counterfactuals were made with, such as ``0,1,2``: one table each;
            0 if left out.
        hparams: Start of the hash of their hyper-parameters, where the store holds several kinds. Where a
            table of others is there already, the name of the table gets that hash.
        resize: Whether to resize queries of another size than the training images.
        full: The full model: a diffusers folder or a Lightning checkpoint; RUN/full if left out.
        attributor: Another attributor than the counterfactuals of RUN/store, such as PixelSimilarity.
        screen: A cheap method that scores all groups first, and how many of them to score truly, such as
            ``guidance:20`` or ``similarity:20``: those that some query puts first, then second, and so on.
            The others have no score; the chance that one of them leads is said.
        objective: With ``screen``: makes the counterfactuals of the kept groups that are missing. Left out,
            they are refused with the command that makes them.
        steps: Optimizer steps per group, with an objective.
        optimizer: Builds the optimizer, with an objective.
        lr_scheduler: Builds a learning-rate schedule, with an objective.
        lora: The low-rank adapter that unlearning trains, with an objective; left out, all weights.
        name: Added to the names of the tables, to keep what would replace others: RUN/scores holds one
            table per method, seed, queries and name.

    Returns:
        The score tables, one a seed.
    """
    refuse_making(screen, objective, trainer.world_size)
    listed = trainer.listed_queries(queries, resize, full)
    seeds, true = chosen_seeds(seed or 0, "--seed"), None
    attributors: list[Attributor] = []
    if attributor is not None:
        refuse_choices(*ATTRIBUTOR, operator=operator, hparams=hparams, subsets=subsets, screen=screen)
        refuse_choices(*ATTRIBUTOR[:2], 'set attributor.init_args.groups, such as ["3","7"]', groups=groups)
        refuse_choices(*ATTRIBUTOR[:2], "set attributor.init_args.seed", seed=seed)
        attributors = [attributor]
    elif screen is not None:
        refuse_choices(*SCREEN, subsets=subsets)
        rule = Screen.parse(screen)
        attributors = [screening_attributor(rule, scoring, chosen_groups(datamodule.grouping, groups))]

        def make(kept: Sequence[str], one: int) -> list[CounterfactualKey]:
            how = (objective, steps, list(kept), full, optimizer, lr_scheduler, one, lora)
            return unlearn(trainer, model, datamodule, *how)

        kinds = (operator, hparams) if objective is None else (None, None)
        true = TrueScores(trainer.run_folder.store, *kinds, seeds, scoring, make if objective else None)
        true.refuse_unknown()
    else:
        chosen = chosen_coalitions(datamodule.grouping, groups, subsets, kept)
        name = name or (None if subsets is None else SUBSETS)
        attributors = [
            CounterfactualAttributor(None, operator, scoring, seed=one, hparams=hparams, groups=chosen)
            for one in seeds
        ]
    run, source = trainer.run_folder, trainer.open_full(full, model, datamodule)
    streamed = StreamedQueries(listed.of_shape(datamodule.image_shape), datamodule, source.model.conditional)
    context = AttributionContext(source, datamodule, store=run.store, cache=run.errors, features=run.features)
    meter = Meter(trainer.strategy.root_device, trainer.world_size)
    request = _Request(streamed, queries, name, hparams, context, scoring.batch_size, weighting, meter)
    paths = _score_all(trainer, attributors, request)
    if true is None:
        return paths
    (screened_by,) = paths
    screening = screening_of(screened_by, rule, weighting)
    paths = _score_all(trainer, true.attributors(screening), request)
    for path in paths:
        say_missed(screened_by, path, weighting)
    return paths


def _score_all(trainer: StageTrainer, attributors: Sequence[Attributor], request: _Request) -> list[Path]:
    """Write one score table for each attributor."""
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


def _score(trainer: StageTrainer, attributor: FittedAttributor, request: _Request, bar: Bar) -> Path:
    """Write one score table, unless it is complete; returns its file."""
    run = trainer.run_folder
    path = table_of(run, attributor.method, attributor.seed, request.path, request.name)
    with locked_by(request.context.execution.ranks, run, path):
        return _score_alone(trainer, attributor, request, bar, path)


def _score_alone(
    trainer: StageTrainer, attributor: FittedAttributor, request: _Request, bar: Bar, path: Path
) -> Path:
    ranks, run = request.context.execution.ranks, trainer.run_folder
    parts = run.parts_of(path)
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


def _judged(judging: Judging, parts: Iterable[ScoreTable], request: _Request) -> dict[str, Verdict]:
    say(
        f"attribute: verdicts on {len(judging.attributor.groups)} counterfactuals, at most "
        f"{judging.evaluations} evaluations on training samples"
    )
    return judging.verdicts(weighted(part, request.weighting) for part in parts)


def _judge_again(path: Path, judging: Judging, request: _Request, bar: Bar) -> None:
    """Give a complete table the verdicts of today's posterior; its scores stay."""
    bar.reset(total=judging.evaluations)
    verdicts = _judged(judging, ScoreTable.load_parts(path), request)

    def write() -> None:
        ScoreTable.save_parts(path, ScoreTable.load_parts(path), ScoreTable.load_record(path), verdicts)

    request.context.execution.ranks.on_rank_zero(write)


def _say_rest(
    trainer: StageTrainer, attributor: FittedAttributor, request: _Request, table: ChunkedTable
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
