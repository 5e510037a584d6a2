"""``guda retrain``: the oracle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, seed_everything

from guda_lightning.counterfactuals import (
    RETRAIN,
    CounterfactualKey,
    CounterfactualRecord,
    CounterfactualStore,
    versions,
)
from guda_lightning.data import GroupDataModule
from guda_lightning.diffusion import DiffusionModule, FullModel
from guda_lightning.diffusion.cost import TrainingCost
from guda_lightning.makers.costs import TimeLeft, say, say_fit_cost, say_skipped, spent
from guda_lightning.report.wandb import closing_runs
from guda_lightning.spread import Executor
from guda_lightning.stages.base import StageTrainer, fit, networks
from guda_lightning.stages.choices import chosen_groups, chosen_seeds, own_seed
from guda_lightning.stages.records import (
    RECORD,
    begin,
    is_stored,
    log_record,
    made_from,
    refuse_other_config,
    without_seeds,
)
from guda_lightning.stages.spreading import Spreading
from guda_lightning.storage.files import sha256_json
from guda_lightning.unlearning.hparams import module_hparams, training_hparams


class RetrainStage(StageTrainer):
    """Trains the full model anew, without a group."""

    def retrain(
        self,
        build: Callable[[], LightningModule],
        datamodule: GroupDataModule,
        groups: list[str] | str | None = None,
        seeds: list[int] | int | str = 0,
        paired: bool = True,
        full: Path | None = None,
        config: Mapping[str, Any] | None = None,
        spread: Executor | None = None,
        resolved: str | None = None,
    ) -> None:
        """Train the oracle: the same model from the start, without each group, into the same store.

        Args:
            build: Makes the untrained module; called after the random generators are seeded.
            datamodule: The training data with its groups.
            groups: Names of the groups to leave out, such as ``3,7``, one model each, or ``3+7`` for one
                without both; all groups if left out.
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

        Raises:
            GudaError: No full model, or one of another configuration; an unknown or empty group; bad seeds.
        """
        spreading = Spreading.of(self, spread, resolved)
        names, chosen = chosen_groups(datamodule.grouping, groups), chosen_seeds(seeds)
        config, record = dict(config or {}), self.run_folder.full / RECORD
        if full is None and record.is_file():
            refuse_other_config(record, config)
        model = build()
        source = self._open_full(full, model, datamodule)
        started = self._at_start(model)
        hparams = {
            **(
                {"config": without_seeds(config)}
                if config
                else {"module": module_hparams(model, started.model)}
            ),
            "paired": paired,
            "start": None if self._start is None else FullModel.of(model, **self._paths).hash,
            "max_steps": self.max_steps,
            "max_epochs": self.max_epochs,
            **training_hparams(datamodule, self),
        }
        store = CounterfactualStore(self.run_folder.store)
        origin = made_from(source, datamodule.grouping)
        keys = [
            CounterfactualKey(RETRAIN, datamodule.grouping.coalition(name), seed, sha256_json(hparams))
            for seed in chosen
            for name in names
        ]
        todo = [key for key in keys if not is_stored(store, key, origin)]
        say_skipped("retrain", [f"{key.name} (seed {key.seed})" for key in keys if key not in todo])
        left = TimeLeft(len(todo))
        for position, key in enumerate(todo, start=1):
            seed = key.seed if paired else own_seed(key)
            seed_everything(seed, workers=True, verbose=False)
            model = build()
            if isinstance(model, DiffusionModule):
                model.seed = seed
            started = self._at_start(model)
            view = datamodule.without(key.groups, seed)
            if position == 1:
                say_fit_cost(
                    *("retrain", self, model, started, view, self._is_conditional(model)),
                    models=len(todo),
                    elsewhere=spreading is not None,
                )
            if spreading is not None:
                spreading.make("retrain", todo, seeds=True)
                return
            made = self._retrain_group(model, view, store, key, hparams, origin)
            cost = f"{spent(vars(made))}{left.after_one()}"
            say(f"retrain: {key.name} (seed {key.seed}) done ({position} of {len(todo)}), {cost}")

    def _retrain_group(
        self,
        model: LightningModule,
        view: GroupDataModule,
        store: CounterfactualStore,
        key: CounterfactualKey,
        hparams: dict[str, Any],
        origin: dict[str, str],
    ) -> CounterfactualRecord:
        """Train one model of the oracle on a fresh trainer and store it."""
        name = f"{key.name} seed {key.seed}"
        with closing_runs():
            cost = TrainingCost(*networks(model, FullModel.of(model, **self._paths)))
            folder = self.run_folder.checkpoints(key.folder_name)
            trainer, checkpoint = self._fresh("retrain", name, folder, cost)
            if self.is_global_zero:
                begin(checkpoint.folder, origin)
            log_record(trainer, {"groups": key.groups, "hparams": hparams, **origin})
            fit(trainer, model, view, checkpoint)
        record = CounterfactualRecord(
            operator=key.operator,
            groups=key.groups,
            seed=key.seed,
            hparams=hparams,
            full_hash=origin["full_hash"],
            grouping_hash=origin["grouping_hash"],
            members_hash=view.grouping.members_hash(key.groups),
            schedule_hash=origin["schedule_hash"],
            history=[],
            versions=versions(),
            seconds=cost.seconds,
            steps=trainer.global_step,
            network_evaluations=cost.evaluations,
        )
        if self.is_global_zero:
            store.save(FullModel.of(model, **self._paths).model.denoiser.state_dict(), record)
            checkpoint.discard()
        trainer.strategy.barrier()  # no rank reads what rank zero still writes
        return record
