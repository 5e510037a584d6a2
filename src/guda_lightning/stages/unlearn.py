"""``guda unlearn``: one counterfactual per group."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable

from guda_lightning.callbacks import ELBOAttributionCallback
from guda_lightning.counterfactuals import CounterfactualRecord, CounterfactualStore
from guda_lightning.data import GroupDataModule
from guda_lightning.diffusion.adapters import Lora
from guda_lightning.makers.costs import is_timed, say, say_cost, say_skipped, spent
from guda_lightning.makers.unlearner import Unlearning, saves_memory
from guda_lightning.report.wandb import closing_runs
from guda_lightning.spread import Spread
from guda_lightning.stages.base import StageTrainer, callbacks, fit
from guda_lightning.stages.choices import at_least_one, chosen_groups
from guda_lightning.stages.records import begin, is_stored, log_record, made_from
from guda_lightning.stages.spreading import Spreading
from guda_lightning.types import JOINT
from guda_lightning.unlearning import Objective, ReTrack
from guda_lightning.unlearning.hparams import unlearning_hparams
from guda_lightning.unlearning.module import default_optimizer

VALIDATIONS = 4  # while unlearning a group: enough to see its influence grow


class UnlearnStage(StageTrainer):
    """Makes the full model forget."""

    def unlearn(
        self,
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
        spread: Spread | None = None,
        resolved: str | None = None,
    ) -> None:
        """Make the counterfactual of each group: the full model, made to forget it.

        Args:
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
            spread: Makes the counterfactuals in other processes, several at a time, such as Processes or
                RayCluster; left out, here and one after the other.
            resolved: The configuration of this stage as YAML, which the processes of a spread run.

        Raises:
            GudaError: No full model, an unknown or empty group, or an objective that does not fit.
        """
        spreading = Spreading.of(self, spread, resolved)
        objective = objective or ReTrack()
        at_least_one("steps", steps)
        names = chosen_groups(datamodule.grouping, groups)
        coalitions = {name: datamodule.grouping.coalition(name) for name in names}
        source = self._open_full(full, model, datamodule)
        store = CounterfactualStore(self.run_folder.store)
        hparams = unlearning_hparams(objective, optimizer, lr_scheduler, steps, datamodule, self, lora)
        conditional = self._is_conditional(model)
        work = Unlearning(
            source, objective, optimizer, lr_scheduler, conditional, seed, hparams, lora, saves_memory(model)
        )
        self.made = work.key(coalitions[names[0]])
        origin = made_from(source, datamodule.grouping)
        todo = [name for name in names if not is_stored(store, work.key(coalitions[name]), origin)]
        for name in todo:
            work.check(coalitions[name], datamodule)
        say_skipped("unlearn", [name for name in names if name not in todo])
        if todo:
            say_cost(
                f"unlearn: {len(todo)} groups x {steps} steps ({objective.operator})",
                work.seconds(datamodule, self.strategy.root_device) * len(todo)
                if is_timed(self, spreading is not None)
                else None,
            )
        if todo and spreading is not None:
            spreading.make("unlearn", [work.key(coalitions[name]) for name in todo])
            return
        for position, name in enumerate(todo, start=1):
            record = self._unlearn_groups(work, coalitions[name], datamodule, store, origin)
            say(f"unlearn: {name} done ({position} of {len(todo)}), {spent(vars(record))}")

    def _unlearn_groups(
        self,
        work: Unlearning,
        groups: tuple[str, ...],
        datamodule: GroupDataModule,
        store: CounterfactualStore,
        origin: dict[str, str],
        **overrides: Any,
    ) -> CounterfactualRecord:
        """Train one counterfactual on a fresh trainer and store it."""
        module = work.module(groups)
        with closing_runs():
            trainer, checkpoint = self._fresh(
                "unlearn",
                JOINT.join(groups),
                self.run_folder.checkpoints(work.key(groups).folder_name),
                max_steps=work.steps,
                max_epochs=-1,
                check_val_every_n_epoch=None,
                val_check_interval=max(1, work.steps // VALIDATIONS),
                num_sanity_val_steps=0,
                enable_model_summary=False,
                **overrides,
            )
            if self.is_global_zero:
                begin(checkpoint.folder, origin)
            log_record(trainer, {"groups": list(groups), "hparams": work.hparams, **origin})
            fit(trainer, module, datamodule.unlearning(groups), checkpoint)
            curves = [c.history for c in callbacks(trainer) if isinstance(c, ELBOAttributionCallback)]
        record = module.save(store, curves[0] if curves else (), work.hparams)
        if self.is_global_zero:
            checkpoint.discard()
        trainer.strategy.barrier()  # no rank reads what rank zero still writes
        return record
