"""``guda unlearn``: one counterfactual per group."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable

from guda_lightning import compat
from guda_lightning.attribution import AttributionContext
from guda_lightning.attribution.probing import posterior_in
from guda_lightning.counterfactuals import CounterfactualKey, CounterfactualStore
from guda_lightning.data import GroupDataModule
from guda_lightning.diffusion import FullModel
from guda_lightning.diffusion.adapters import Lora
from guda_lightning.distributed.strategies import agreed
from guda_lightning.makers.costs import TimeLeft, is_timed, say, say_cost, say_skipped, spent
from guda_lightning.makers.unlearner import Unlearner, saves_memory
from guda_lightning.spread import Executor
from guda_lightning.stages.base import StageTrainer
from guda_lightning.stages.choices import at_least_one, chosen_groups
from guda_lightning.stages.spreading import Spreading
from guda_lightning.unlearning import Objective, ReTrack
from guda_lightning.unlearning.hparams import unlearning_hparams
from guda_lightning.unlearning.module import default_optimizer


def unlearn(
    trainer: StageTrainer,
    model: LightningModule,
    datamodule: GroupDataModule,
    objective: Objective | None = None,
    steps: int = 60,
    groups: list[str] | str | None = None,
    full: Path | None = None,
    optimizer: OptimizerCallable = default_optimizer,
    lr_scheduler: LRSchedulerCallable | None = None,
    seed: int = 0,
    lora: Lora | None = None,
    until: Literal["steps", "predicted"] = "steps",
    spread: Executor | None = None,
    resolved: str | None = None,
) -> list[CounterfactualKey]:
    """Make the counterfactual of each group: the full model, made to forget it.

    Args:
        trainer: The trainer of the run.
        model: The full model's module.
        datamodule: The training data with its groups.
        objective: What unlearning minimises; ReTrack with its defaults if left out.
        steps: Optimizer steps per group.
        groups: Names of the groups to forget, such as ``3,7``, one counterfactual each, or ``3+7`` for
            one that forgets both; all groups if left out.
        full: The full model: a diffusers folder or a Lightning checkpoint; RUN/full if left out.
        optimizer: Builds the optimizer.
        lr_scheduler: Builds a learning-rate schedule that advances every step.
        seed: Seed of the noise and the timesteps.
        lora: Unlearn in a low-rank adapter, a small file a group; left out, in all weights.
        until: ``predicted`` stops before the last step, where the loss on samples of the group has risen as
            far as the posterior of ``guda guide`` predicts.
        spread: Makes the counterfactuals in other processes, several at a time, such as Processes or
            RayCluster; left out, here and one after the other.
        resolved: The configuration of this stage as YAML, which the processes of a spread run.

    Returns:
        The keys of the counterfactuals in RUN/store, one for each group.

    Raises:
        GudaError: No full model, an unknown or empty group, or an objective that does not fit.
    """
    spreading = Spreading.of(trainer, spread, resolved)
    at_least_one("steps", steps)
    objective, grouping = objective or ReTrack(), datamodule.grouping
    coalitions = {name: grouping.coalition(name) for name in chosen_groups(grouping, groups)}
    source = trainer.open_full(full, model, datamodule)
    how = (objective, steps, optimizer, lr_scheduler, seed, lora, until == "predicted")
    maker = unlearner(trainer, model, source, datamodule, *how)
    dry = compat.is_dry_run(trainer)
    todo = [name for name, removed in coalitions.items() if dry or not maker.has(removed)]
    for name in todo:
        maker.check(coalitions[name])
    for key in (maker.key(removed) for name, removed in coalitions.items() if name not in todo):
        trainer.trainers.discard_unfinished(key.folder_name, maker.provenance.of_training())
    say_skipped("unlearn", [name for name in coalitions if name not in todo])
    if todo and not dry:
        each = maker.seconds() if is_timed(trainer, spreading is not None) else None
        say_cost(
            f"unlearn: {len(todo)} groups x {steps} steps ({objective.operator})",
            None if each is None else each * len(todo),
        )
    if todo and spreading is not None and not dry:
        spreading.make("unlearn", [maker.key(coalitions[name]) for name in todo])
    else:
        todo = agreed(trainer, todo, work=bool(todo))
        left = TimeLeft(len(todo))
        for position, name in enumerate(todo, start=1):
            record = maker.make(coalitions[name])
            if record is None:
                continue
            cost = f"{spent(vars(record))}{left.after_one()}"
            say(f"unlearn: {name} done ({position} of {len(todo)}), {cost}")
    return [maker.key(removed) for removed in coalitions.values()]


def unlearner(
    trainer: StageTrainer,
    model: LightningModule,
    full: FullModel,
    datamodule: GroupDataModule,
    objective: Objective,
    steps: int,
    optimizer: OptimizerCallable,
    lr_scheduler: LRSchedulerCallable | None,
    seed: int,
    lora: Lora | None,
    until_predicted: bool = False,
) -> Unlearner:
    """What makes the counterfactuals of a run, from the options of ``unlearn``."""
    hparams = unlearning_hparams(objective, optimizer, lr_scheduler, steps, datamodule, trainer, lora)
    if until_predicted:
        posterior = posterior_in(AttributionContext(full, datamodule, store=trainer.run_folder.store), seed)
        hparams["until"] = {"predicted": None if posterior is None else posterior.weights_hash}
    return Unlearner(
        full=full,
        data=datamodule,
        store=CounterfactualStore(trainer.run_folder.store),
        trainers=trainer.trainers,
        hparams=hparams,
        seed=seed,
        objective=objective,
        optimizer=optimizer,
        lr_scheduler=lr_scheduler,
        steps=steps,
        lora=lora,
        checkpointing=saves_memory(model),
        device=trainer.strategy.root_device,
        autocast=trainer.precision_plugin.forward_context,
        until_predicted=until_predicted,
    )
