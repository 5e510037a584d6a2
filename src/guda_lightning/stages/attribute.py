"""``guda attribute``: scores of queries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable

from guda_lightning.attribution import (
    AttributionContext,
    Attributor,
    CounterfactualAttributor,
)
from guda_lightning.attribution.chunks import StreamedQueries
from guda_lightning.attribution.screening import Screen
from guda_lightning.counterfactuals import SUBSETS, CounterfactualKey
from guda_lightning.data import GroupDataModule
from guda_lightning.diffusion.adapters import Lora
from guda_lightning.scores import Scoring
from guda_lightning.stages.base import StageTrainer
from guda_lightning.stages.choices import (
    ATTRIBUTOR,
    SCREEN,
    chosen_coalitions,
    chosen_groups,
    chosen_seeds,
    refuse_choices,
)
from guda_lightning.stages.costs import Meter
from guda_lightning.stages.score_tables import Request, score_all
from guda_lightning.stages.screened import (
    TrueScores,
    refuse_making,
    say_missed,
    screening_attributor,
    screening_of,
)
from guda_lightning.stages.unlearn import unlearn
from guda_lightning.types import Weighting
from guda_lightning.unlearning import Objective
from guda_lightning.unlearning.module import default_optimizer


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
    request = Request(streamed, queries, name, hparams, context, scoring.batch_size, weighting, meter)
    paths = score_all(trainer, attributors, request)
    if true is None:
        return paths
    (screened_by,) = paths
    screening = screening_of(screened_by, rule, weighting)
    paths = score_all(trainer, true.attributors(screening), request)
    for path in paths:
        say_missed(screened_by, path, weighting)
    return paths
