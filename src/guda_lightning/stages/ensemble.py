"""``guda ensemble``: models that each miss some groups; means of them are exact counterfactuals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from lightning.pytorch import LightningModule

from guda_lightning import compat
from guda_lightning.counterfactuals import CounterfactualKey, CounterfactualStore
from guda_lightning.counterfactuals.ensemble import EnsemblePlan
from guda_lightning.data import GroupDataModule
from guda_lightning.makers.costs import say, training_batches
from guda_lightning.report.ensemble_section import section_of
from guda_lightning.report.logged import log_section
from guda_lightning.report.wandb import closing_runs, stage_loggers
from guda_lightning.spread import Executor
from guda_lightning.stages.base import StageTrainer
from guda_lightning.stages.choices import chosen_groups
from guda_lightning.stages.retrain import retrainers, train_missing
from guda_lightning.stages.spreading import Spreading
from guda_lightning.storage.frames import load_frame, save_frame
from guda_lightning.storage.locks import locked
from guda_lightning.types import JOINT

_COMMAND = "guda ensemble"


def ensemble(
    trainer: StageTrainer,
    build: Callable[[], LightningModule],
    datamodule: GroupDataModule,
    members: int | None = None,
    seed: int = 0,
    leave_one_out: bool = False,
    full: Path | None = None,
    config: Mapping[str, Any] | None = None,
    spread: Executor | None = None,
    resolved: str | None = None,
) -> list[CounterfactualKey]:
    """Train an ensemble whose members each miss half of the groups, each group another half of the members.

    The mean of the members that never saw a group is the ensemble's exact counterfactual of it, whatever the
    number of groups: 6 members serve 10 groups, 8 serve 35, 12 serve 462. ``guda attribute -c
    attribute/ensemble.yaml`` scores with them, each group against the others. What is attributed is the
    ensemble, not the full model.

    A member is a model that ``guda retrain`` would train without its groups, with a seed of its own. It
    trains as long as the configuration says: as many steps as the full model under ``max_steps``, about half
    as many under ``max_epochs``.

    Args:
        trainer: The trainer of the run.
        build: Makes the untrained module; called after the random generators are seeded.
        datamodule: The training data with its groups.
        members: Even number of members; the fewest that serve the groups if left out. More make scores less
            noisy.
        seed: Seed of the ensemble: who misses what, and of the seeds of its members.
        leave_one_out: Train as many members as groups instead, each without one of them.
        full: The full model, whose queries are attributed: a diffusers folder or a Lightning checkpoint;
            RUN/full if left out.
        config: What the module is made from; must be what RUN/full was made from.
        spread: Trains the members in other processes, several at a time, such as Processes or RayCluster;
            left out, here and one after the other.
        resolved: The configuration of this stage as YAML, which the processes of a spread run.

    Returns:
        The keys of the members in RUN/store.

    Raises:
        GudaError: No full model, or one of another configuration; too many or too few groups for so many
            members.
    """
    spreading = Spreading.of(trainer, spread, None if resolved is None else _as_retraining(resolved))
    names = chosen_groups(datamodule.grouping)
    plan = EnsemblePlan.of(names, members, seed, one_each=leave_one_out)
    for groups in plan.removed:
        datamodule.grouping.check(groups)
    model, (maker,) = retrainers(trainer, build, datamodule, [seed], False, full, config)
    every = {maker.key(groups): maker for groups in plan.removed}
    numbers = {key: f"member {number} of {len(every)}" for number, key in enumerate(every, start=1)}
    say(f"ensemble: {_cost(trainer, datamodule, plan)}")
    train_missing("ensemble", trainer, model, datamodule, every, spreading, named=numbers.__getitem__)
    if trainer.is_global_zero and not compat.is_dry_run(trainer):
        with locked(trainer.run_folder.root, trainer.run_folder.ensemble(plan.name)):
            _write(trainer, datamodule, plan, list(every))
    return list(every)


def _cost(trainer: StageTrainer, datamodule: GroupDataModule, plan: EnsemblePlan) -> str:
    """How much work the members are, in trainings of the full model."""
    each = [training_batches(trainer, datamodule.without(groups)) for groups in plan.removed]
    full, counts = training_batches(trainer, datamodule), [count for count in each if count is not None]
    work = (
        ""
        if not full or len(counts) < len(each)
        else f"as many steps as {sum(counts) / full:.3g} trainings, "
    )
    return (
        f"{plan.members} members, {plan.zeros} of them without each of {len(plan.groups)} groups; {work}"
        f"against {len(plan.groups)} retrainings without one group each"
    )


def _write(
    trainer: StageTrainer, datamodule: GroupDataModule, plan: EnsemblePlan, keys: list[CounterfactualKey]
) -> None:
    """Write and log the members, unless they are those that were written before."""
    run = trainer.run_folder
    store, path = CounterfactualStore(run.store), run.ensemble(plan.name)
    records = [store.record(key) for key in keys]
    first = records[0]
    about = {
        "seed": plan.seed,
        "groups": len(plan.groups),
        "zeros": plan.zeros,
        "leave_one_out": plan.one_each,
        "hparams_hash": first.hparams_hash,
        "full_hash": first.full_hash,
        "grouping_hash": first.grouping_hash,
        "members": [record.weights_hash for record in records],
    }
    if path.is_file() and load_frame(path, _COMMAND)[1] == about:
        return
    frame = pd.DataFrame(
        {
            "member": range(1, len(records) + 1),
            "without": [JOINT.join(record.groups) for record in records],
            "groups": [len(plan.groups) - len(record.groups) for record in records],
            "samples": [len(datamodule.grouping.retain(record.groups)) for record in records],
            "steps": [record.steps for record in records],
            "seconds": [record.seconds for record in records],
            "network_evaluations": [record.network_evaluations for record in records],
        }
    )
    with closing_runs():
        loggers = stage_loggers(trainer.loggers, run.name, "ensemble", f"ensemble {path.stem}")
        log_section(loggers, section_of([(frame, about)]), about)
    save_frame(path, frame, about)


def _as_retraining(resolved: str) -> str:
    """The configuration of ``guda retrain`` that trains the members; empty where nothing is spread."""
    if not resolved:
        return resolved
    values = yaml.safe_load(resolved)
    values["seeds"] = values.pop("seed", 0)
    for name in ("members", "leave_one_out"):
        values.pop(name, None)
    return yaml.safe_dump({**values, "paired": False}, sort_keys=False)
