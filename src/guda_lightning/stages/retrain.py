"""``guda retrain``: the oracle."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule

from guda_lightning import compat
from guda_lightning.counterfactuals import CounterfactualKey, CounterfactualStore
from guda_lightning.data import GroupDataModule
from guda_lightning.distributed.strategies import agreed
from guda_lightning.errors import check_range
from guda_lightning.makers.costs import TimeLeft, say, say_fit_cost, say_skipped, spent
from guda_lightning.makers.retrainer import Retrainer, retraining_hparams
from guda_lightning.spread import Executor
from guda_lightning.stages.base import StageTrainer
from guda_lightning.stages.choices import chosen_coalitions, chosen_seeds
from guda_lightning.stages.spreading import Spreading
from guda_lightning.storage.config import refuse_other
from guda_lightning.storage.full_record import FullRecord


def retrain(
    trainer: StageTrainer,
    build: Callable[[], LightningModule],
    datamodule: GroupDataModule,
    groups: list[str] | str | None = None,
    subsets: int | str | None = None,
    kept: float = 0.5,
    seeds: list[int] | int | str = 0,
    paired: bool = True,
    full: Path | None = None,
    config: Mapping[str, Any] | None = None,
    spread: Executor | None = None,
    resolved: str | None = None,
) -> list[CounterfactualKey]:
    """Train the oracle: the same model from the start, without each group, into the same store.

    Args:
        trainer: The trainer of the run.
        build: Makes the untrained module; called after the random generators are seeded.
        datamodule: The training data with its groups.
        groups: Names of the groups to leave out, such as ``3,7``, one model each, or ``3+7`` for one
            without both; all groups if left out.
        subsets: Instead, models of subsets of the groups, as ``guda evaluate --lds`` needs them: how many to
            draw at random, or a text file with the groups that stay, one subset a line.
        kept: Share of the groups that stay in subsets that are drawn.
        seeds: Seeds of initialisation, order, noise and timesteps, such as ``0,1,2``: one model per group
            and seed.
        paired: Whether the models of one seed begin with the same weights, see the samples that they
            share in the same order and draw the same noise; else each group has a seed of its own.
        full: The full model: a diffusers folder or a Lightning checkpoint; RUN/full if left out.
        config: What the module is made from; must be what RUN/full was made from. Left out, oracles are
            told apart by what ``build`` makes, as far as that shows (``module_hparams``).
        spread: Trains the models in other processes, several at a time, such as Processes or RayCluster;
            left out, here and one after the other.
        resolved: The configuration of this stage as YAML, which the processes of a spread run.

    Returns:
        The keys of the models in RUN/store, one for each seed and group.

    Raises:
        GudaError: No full model, or one of another configuration; an unknown or empty group; bad seeds.
    """
    spreading = Spreading.of(trainer, spread, resolved)
    names = chosen_coalitions(datamodule.grouping, groups, subsets, kept)
    chosen = chosen_seeds(seeds)
    model, makers = retrainers(trainer, build, datamodule, chosen, paired, full, config)
    coalitions = [datamodule.grouping.coalition(name) for name in names]
    every = {maker.key(removed): maker for maker in makers for removed in coalitions}
    train_missing("retrain", trainer, model, datamodule, every, spreading)
    return list(every)


def retrainers(
    trainer: StageTrainer,
    build: Callable[[], LightningModule],
    datamodule: GroupDataModule,
    seeds: Sequence[int],
    paired: bool,
    full: Path | None,
    config: Mapping[str, Any] | None,
) -> tuple[LightningModule, list[Retrainer]]:
    """The untrained module, and what trains it without groups, one a seed; arguments as of ``retrain``.

    Raises:
        GudaError: No full model, or one of another configuration.
    """
    for seed in seeds if paired else ():  # others are hashed
        fix = "pass smaller --seeds"
        check_range("the seed of a retraining", seed, lt=2**32, expected="0 <= seed < 2**32", fix=fix)
    config = dict(config or {})
    record = FullRecord.of_run(trainer.run_folder.full) if full is None else None
    if record is not None:
        refuse_other(trainer.run_folder.full, record.config, config)
    model = build()
    source = trainer.open_full(full, model, datamodule)
    hparams = retraining_hparams(model, trainer.layout, datamodule, trainer, config, paired)
    return model, [
        Retrainer(
            full=source,
            data=datamodule,
            store=CounterfactualStore(trainer.run_folder.store),
            trainers=trainer.trainers,
            hparams=hparams,
            seed=seed,
            build=build,
            layout=trainer.layout,
            paired=paired,
        )
        for seed in seeds
    ]


def train_missing(
    stage: str,
    trainer: StageTrainer,
    model: LightningModule,
    datamodule: GroupDataModule,
    every: Mapping[CounterfactualKey, Retrainer],
    spreading: Spreading | None,
    named: Callable[[CounterfactualKey], str] = lambda key: f"{key.name} (seed {key.seed})",
) -> None:
    """Train what the store lacks of some models, one after the other or in other processes.

    Args:
        stage: What messages begin with.
        trainer: The trainer of the run.
        model: The untrained module.
        datamodule: The training data.
        every: What trains each model, by its key.
        spreading: Trains them in other processes, by ``guda retrain``.
        named: What to call a model.
    """
    dry = compat.is_dry_run(trainer)
    todo = {key: maker for key, maker in every.items() if dry or not maker.has(key.groups)}
    for key in every.keys() - todo.keys():
        trainer.trainers.discard_unfinished(key.folder_name, every[key].provenance.of_training())
    say_skipped(stage, [named(key) for key in every if key not in todo])
    if todo:
        view = datamodule.without(next(iter(todo)).groups)
        full_of_model = trainer.layout.full(model)
        say_fit_cost(
            *(stage, trainer, model, full_of_model, view),
            models=len(todo),
            elsewhere=spreading is not None,
        )
    if todo and spreading is not None and not dry:
        spreading.make("retrain", list(todo), seeds=True)
    else:
        keys = agreed(trainer, list(todo), work=bool(todo))
        left = TimeLeft(len(keys))
        for position, key in enumerate(keys, start=1):
            made = every[key].make(key.groups)
            if made is None:
                continue
            cost = f"{spent(vars(made))}{left.after_one()}"
            say(f"{stage}: {named(key)} done ({position} of {len(keys)}), {cost}")
