"""``guda guide``: one classifier of noised samples, from which every counterfactual follows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule

from guda_lightning.counterfactuals import CounterfactualRecord, CounterfactualStore, versions
from guda_lightning.data import GroupDataModule
from guda_lightning.diffusion.cost import TrainingCost
from guda_lightning.makers.classifier_trainer import Guiding, guiding_hparams
from guda_lightning.makers.costs import say, spent
from guda_lightning.posteriors import ClassifierPlan, GroupClassifier, NoiseLevel, weights_of
from guda_lightning.report.wandb import closing_runs
from guda_lightning.stages.base import StageTrainer, fit
from guda_lightning.stages.choices import chosen_groups
from guda_lightning.stages.records import begin, is_stored, log_record, made_from

_CHECKPOINTS = 10  # of a training: its epochs take less time than writing one


class GuideStage(StageTrainer):
    """Trains the classifier that guides the full model away from any group."""

    def guide(
        self,
        model: LightningModule,
        datamodule: GroupDataModule,
        classifier: ClassifierPlan = ClassifierPlan(),  # noqa: B008  (frozen)
        seed: int = 0,
        full: Path | None = None,
    ) -> None:
        """Train one classifier of noised samples, from which every group's counterfactual follows.

        Args:
            model: The full model's module.
            datamodule: The training data with its groups.
            classifier: Network, steps, learning rate and held-out share.
            seed: Seed of the classifier.
            full: The full model: a diffusers folder or a Lightning checkpoint; RUN/full if left out.

        Raises:
            GudaError: No full model, or a conditional one whose labels tell the groups.
        """
        chosen_groups(datamodule.grouping, None)  # each can be removed
        source = self._open_full(full, model, datamodule)
        hparams = guiding_hparams(classifier, datamodule, self)
        work = Guiding(source, classifier, self._is_conditional(model), seed, hparams)
        store, origin = CounterfactualStore(self.run_folder.store), made_from(source, datamodule.grouping)
        if is_stored(store, work.key(datamodule.grouping), origin):
            say("guide: the classifier is complete, skipped")
            return
        module = work.module(datamodule)
        say(
            f"guide: {classifier.steps} steps of {classifier.batch_size} images through a classifier of "
            f"{sum(p.numel() for p in module.network.parameters())} parameters"
        )
        record = self._train_classifier(work, module, datamodule, store, origin)
        say(f"guide: classifier of {len(record.groups)} groups done, {spent(vars(record))}")
        for level in module.levels:
            say(_described(level))

    def _train_classifier(
        self,
        work: Guiding,
        module: GroupClassifier,
        datamodule: GroupDataModule,
        store: CounterfactualStore,
        origin: dict[str, str],
        **overrides: Any,
    ) -> CounterfactualRecord:
        """Train a classifier on a fresh trainer, calibrate and store it."""
        key, data = work.key(datamodule.grouping), work.data(datamodule)
        with closing_runs():
            cost = TrainingCost(module.network)
            batches = max(1, len(data.kept) // (work.plan.batch_size * self.world_size))
            trainer, checkpoint = self._fresh(
                "guide",
                "classifier",
                self.run_folder.checkpoints(key.folder_name),
                cost,
                epochs=work.plan.steps // batches // _CHECKPOINTS + 1,
                **{
                    "max_steps": work.plan.steps,
                    "max_epochs": -1,
                    "limit_val_batches": 0,
                    "num_sanity_val_steps": 0,
                    **overrides,
                },
            )
            if self.is_global_zero:
                begin(checkpoint.folder, origin)
            log_record(trainer, {"groups": list(key.groups), "hparams": work.hparams, **origin})
            fit(trainer, module, data, checkpoint)
        module.to(self.strategy.root_device).calibrate(data)
        record = CounterfactualRecord(
            operator=key.operator,
            groups=key.groups,
            seed=work.seed,
            hparams=dict(work.hparams),
            full_hash=origin["full_hash"],
            grouping_hash=origin["grouping_hash"],
            schedule_hash=origin["schedule_hash"],
            members_hash=datamodule.grouping.hash,
            history=[level.to_row() for level in module.levels],
            versions=versions(),
            seconds=cost.seconds,
            steps=trainer.global_step,
            network_evaluations=cost.evaluations,
        )
        if self.is_global_zero:
            store.save(weights_of(module), record)
            checkpoint.discard()
        trainer.strategy.barrier()  # no rank reads what rank zero still writes
        return record


def _described(level: NoiseLevel) -> str:
    """One line per noise level."""
    return (
        f"  t {level.first:>4}-{level.last:<4} held-out accuracy {level.accuracy:.2f}, calibration error "
        f"{level.ece:.3f} -> {level.ece_tempered:.3f} at temperature {level.temperature:.2f}"
    )
