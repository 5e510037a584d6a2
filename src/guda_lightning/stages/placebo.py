"""``guda placebo``: scores of random groups, and which queries can be attributed at all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable

from guda_lightning.attribution import (
    AttributionContext,
    Attributor,
    CounterfactualAttributor,
    FittedAttributor,
)
from guda_lightning.data import GroupDataModule, near_duplicates
from guda_lightning.diffusion.adapters import Lora
from guda_lightning.distributed.execution import Execution
from guda_lightning.errors import ConfigError, StoreError
from guda_lightning.evaluation import refuse_few
from guda_lightning.evaluation.placebo_test import placebo_frame, placebo_tests
from guda_lightning.makers.costs import bar_of, say
from guda_lightning.makers.posterior_maker import PosteriorMaker
from guda_lightning.makers.unlearner import Unlearner
from guda_lightning.posteriors import GUIDANCE, ClassifierPlan, PosteriorName
from guda_lightning.report.logged import log_placebo
from guda_lightning.report.placebo_section import NAMED, placebo_lines, write_parquet
from guda_lightning.report.wandb import closing_runs, stage_loggers
from guda_lightning.scores import ScoreRecord, ScoreTable, Scoring
from guda_lightning.scores.kinds import RandomGroups
from guda_lightning.stages.base import StageTrainer
from guda_lightning.stages.choices import (
    at_least_one,
    chosen_groups,
    refuse_several_processes,
    refuse_two_methods,
    table_about,
    table_of,
)
from guda_lightning.stages.guide import posterior_maker
from guda_lightning.stages.partitions import Partitions
from guda_lightning.stages.unlearn import unlearner
from guda_lightning.storage.config import begin
from guda_lightning.storage.files import sha256_json
from guda_lightning.storage.leftovers import discard
from guda_lightning.storage.locks import locked
from guda_lightning.types import Queries, Weighting
from guda_lightning.unlearning import Objective, ReTrack
from guda_lightning.unlearning.module import default_optimizer


def placebo(
    trainer: StageTrainer,
    model: LightningModule,
    datamodule: GroupDataModule,
    partitions: int = 99,
    attributor: Attributor | None = None,
    objective: Objective | None = None,
    posterior: PosteriorName | None = None,
    classifier: ClassifierPlan | None = None,
    steps: int = 60,
    optimizer: OptimizerCallable = default_optimizer,
    lr_scheduler: LRSchedulerCallable | None = None,
    scoring: Scoring = Scoring(),  # noqa: B008  (frozen)
    weighting: Weighting = "elbo",
    lora: Lora | None = None,
    level: float = 0.05,
    seed: int = 0,
    queries: Path | None = None,
    resize: bool = False,
    full: Path | None = None,
    name: str | None = None,
) -> Path:
    """Test which queries any group influences more than random groups of the same sizes do.

    The method is repeated on random partitions of the training data, each made, scored and thrown away;
    what it says about the real groups must have been scored before, with the same options.

    Args:
        trainer: The trainer of the run.
        model: The full model's module.
        datamodule: The training data with its groups.
        partitions: Random partitions, at least 99.
        attributor: The method, such as PixelSimilarity; left out, counterfactuals.
        objective: What unlearning minimises; ReTrack with its defaults if left out.
        posterior: The kind of posterior that guides; left out, unlearning, unless ``classifier`` is given:
            guidance.
        classifier: Classifiers of the posterior, as they were given to ``guda guide``.
        steps: Optimizer steps per group.
        optimizer: Builds the optimizer.
        lr_scheduler: Builds a learning-rate schedule that advances every step.
        scoring: Timesteps, draws, seed, batch size and precision.
        weighting: The weighting that is printed; files and page hold both.
        lora: The low-rank adapter that unlearning trains; left out, all weights.
        level: Share of false discoveries to allow among the queries called attributable.
        seed: Seed of unlearning or of the posterior, of the scored table.
        queries: An image or a folder of images; RUN/queries if left out.
        resize: Whether to resize queries of another size than the training images.
        full: The full model: a diffusers folder or a Lightning checkpoint; RUN/full if left out.
        name: Of the score table, as it was given to ``guda attribute``.

    Returns:
        The scores of the random groups, a table in RUN/placebo.
    """
    at_least_one("steps", steps)
    refuse_few(partitions, level)
    if classifier is not None and posterior is None:
        posterior = GUIDANCE
    refuse_two_methods(attributor, objective, posterior)
    refuse_several_processes(
        trainer.world_size,
        "placebo",
        why="partitions are made, scored and thrown away one after the other",
        fix="pass --trainer.devices 1 --trainer.num_nodes 1",
    )
    listed = trainer.listed_queries(queries, resize, full)
    run, source = trainer.run_folder, trainer.open_full(full, model, datamodule)
    requested = listed.of_shape(datamodule.image_shape).load()
    encoded = datamodule.as_queries(requested, source.model.conditional)
    maker: Unlearner | PosteriorMaker | None = None
    hparams: str | None = None
    if posterior is not None:
        maker = posterior_maker(posterior, trainer, source, datamodule, classifier or ClassifierPlan(), seed)
    elif attributor is None:
        unlearning = (objective or ReTrack(), steps, optimizer, lr_scheduler, seed, lora)
        maker = unlearner(trainer, model, source, datamodule, *unlearning)
    if maker is not None:
        hparams = sha256_json(dict(maker.hparams))
        attributor = CounterfactualAttributor(None, maker.operator, scoring, seed=seed, hparams=hparams)
    assert attributor is not None
    execution = Execution(trainer.strategy.root_device)
    context = AttributionContext(source, datamodule, store=run.store, execution=execution)
    real = attributor.fit(context)
    _refuse_missing_groups(real, datamodule)
    path = table_of(run, real.method, real.seed, queries, name)
    path = table_about(path, queries, real.record(encoded), hparams)
    observed = _scored(path, real, encoded)
    repeated = Partitions(
        count=partitions,
        attributor=attributor,
        maker=maker,
        context=context,
        data=datamodule,
        queries=encoded,
        folder=run.placebo / path.stem,
    )
    result = run.placebo / path.name
    with locked(run.root, result):
        random = _random_groups(trainer, result, observed.record.hash, repeated, scoring)
        random = _recorded(random, observed, datamodule, partitions, level)
        return _test(trainer, path, observed, random, weighting)


def _random_groups(
    trainer: StageTrainer, result: Path, of: str, partitions: Partitions, scoring: Scoring
) -> ScoreTable:
    """The scores of random groups, those that are stored if they test the same scores."""
    if ScoreTable.exists(result):
        details = ScoreTable.load_record(result).details
        tested = (details.of, details.partitions) if isinstance(details, RandomGroups) else None
        if tested == (of, partitions.count):
            say(f"placebo: {result} is complete, skipped")
            return ScoreTable.load(result)
    begin(partitions.folder, {"of": of})
    partitions.say_cost(scoring)
    count = partitions.count
    with bar_of(trainer, "placebo", "partitions", count, count - len(partitions.left)) as bar:
        return partitions.scores(bar)


def _recorded(
    random: ScoreTable, observed: ScoreTable, data: GroupDataModule, partitions: int, level: float
) -> ScoreTable:
    """The scores with what identifies them; near-duplicates are not looked for again."""
    details = random.record.details
    if isinstance(details, RandomGroups):
        return ScoreTable(random.table, ScoreRecord(replace(details, level=level)))
    pairs = near_duplicates(data.small_images(), data.grouping)
    named = [{"first": data.ids[p.first], "second": data.ids[p.second]} for p in pairs[:NAMED]]
    details = RandomGroups(
        of=observed.record.hash,
        partitions=partitions,
        level=level,
        near_duplicate_pairs=len(pairs),
        near_duplicates=named,
    )
    return ScoreTable(random.table, ScoreRecord(details))


def _test(
    trainer: StageTrainer, path: Path, observed: ScoreTable, random: ScoreTable, weighting: Weighting
) -> Path:
    """Write, log and print which queries random groups explain as well; returns the table of these."""
    folder, result = trainer.run_folder.placebo, trainer.run_folder.placebo / path.name
    tests = placebo_tests(observed, random)
    frame = placebo_frame(observed, tests)
    if not ScoreTable.is_complete(result, random.record):
        _log(trainer, path.stem, frame, random)
        random.save(result)
    discard(folder / path.stem)  # partitions
    # In a folder of its own: the table of --queries RUN/queries is itself called METHOD-SEED-queries.
    write_parquet(folder / "queries" / path.name, frame)
    shown = {name: test for name, test in tests.items() if name == weighting or weighting not in tests}
    say("\n".join(f"placebo {path.stem}, {line}" for line in placebo_lines(observed, random, shown)))
    return result


def _log(trainer: StageTrainer, name: str, frame: pd.DataFrame, random: ScoreTable) -> None:
    with closing_runs():
        loggers = stage_loggers(trainer.loggers, trainer.run_folder.name, "placebo", f"placebo {name}")
        log_placebo(loggers, frame, random.record.to_json())


def _scored(path: Path, attributor: FittedAttributor, queries: Queries) -> ScoreTable:
    """The scores of the real groups.

    Raises:
        StoreError: They have not been scored, or with other options.
    """
    if ScoreTable.is_complete(path, attributor.record(queries)):
        return ScoreTable.load(path)
    raise StoreError(
        f"the real groups have not been scored by {attributor.method} with these options",
        found=f"another table at {path}" if ScoreTable.exists(path) else f"no table {path}",
        expected="the score table that random groups are compared with",
        fix="run guda attribute with the same queries, seed, name and scoring first",
    )


def _refuse_missing_groups(attributor: FittedAttributor, data: GroupDataModule) -> None:
    groups = chosen_groups(data.grouping, None)
    if list(attributor.groups) != groups:
        raise ConfigError(
            "random groups stand for all real ones",
            found=f"an attributor of {len(attributor.groups)} of {len(groups)} groups",
            expected="all groups that have samples",
            fix="leave out the attributor's groups",
        )
