"""``ClassifierTrainer``: trains the classifier from which every group's counterfactual follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Trainer

from guda_lightning.data import GroupDataModule, HeldOutDataModule
from guda_lightning.diffusion import FullModel
from guda_lightning.diffusion.cost import TrainingCost
from guda_lightning.distributed.ranks import Ranks
from guda_lightning.makers.trainers import TrainerFactory, Training, spent_by
from guda_lightning.posteriors import (
    GUIDANCE,
    ClassifierKey,
    ClassifierPlan,
    ClassifierRecord,
    ClassifierStore,
    GroupClassifier,
    network_hparams,
    weights_of,
)
from guda_lightning.storage.files import sha256_json
from guda_lightning.storage.provenance import Provenance
from guda_lightning.unlearning.hparams import training_hparams

if TYPE_CHECKING:
    from typing_extensions import Self

_CHECKPOINTS = 10  # of a training: its epochs take less time than writing one


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassifierTrainer:
    """Trains the classifier of all groups of a full model.

    Attributes:
        full: The full model.
        data: Its training data, which say who belongs to which group.
        store: Where classifiers go.
        trainers: Makes the trainer.
        hparams: Every hyper-parameter, as ``classifier_hparams`` gives them.
        plan: Network, steps, learning rate and held-out share.
        seed: Seed of the classifier.
    """

    full: FullModel
    data: GroupDataModule
    store: ClassifierStore
    trainers: TrainerFactory
    hparams: Mapping[str, Any]
    plan: ClassifierPlan
    seed: int = 0

    operator = GUIDANCE  # what the counterfactuals that follow from it are called

    def make(self) -> ClassifierRecord | None:
        """Train, calibrate and store the classifier; continues what was interrupted.

        Returns:
            How it was made; None after a dry run (``fast_dev_run``), which stores nothing.

        Raises:
            GudaError: The data and the full model do not fit guidance.
        """
        key, module = self.key(), self.module()
        data = HeldOutDataModule(self.data, self.plan.held_out, self.plan.batch_size, self.seed)
        cost = TrainingCost(module.network)

        def keep(trainer: Trainer) -> ClassifierRecord:
            module.to(trainer.strategy.root_device).calibrate(data)
            levels = [level.to_row() for level in module.levels]
            spent = spent_by(trainer, cost)
            record = ClassifierRecord.of(key, self.hparams, self.provenance, levels=levels, **spent)
            Ranks.of(trainer).on_rank_zero(partial(self.store.save, weights_of(module), record))
            return record

        training = Training(
            "guide",
            "classifier",
            key.folder_name,
            made_from=self.provenance.to_json(),
            hparams={"groups": list(key.groups), "hparams": self.hparams, **self.provenance.to_json()},
            settings={
                "max_steps": self.plan.steps,
                "max_epochs": -1,
                "limit_val_batches": 0,
                "num_sanity_val_steps": 0,
            },
            callbacks=[cost],
            epochs=self.plan.steps // self._batches(data) // _CHECKPOINTS + 1,
        )
        return self.trainers.train(training, module, data, keep)

    def key(self) -> ClassifierKey:
        """What the classifier is stored under."""
        return ClassifierKey(self.data.grouping.names, self.seed, sha256_json(dict(self.hparams)))

    @property
    def provenance(self) -> Provenance:
        """What the classifier is made from."""
        return self.full.provenance(self.data.grouping.hash)

    def has(self) -> bool:
        """Whether the classifier is stored.

        Raises:
            StoreError: It was made from another full model, grouping or schedule.
        """
        return self.store.holds(self.key(), self.provenance)

    def make_all(self) -> None:
        """Make the classifier, unless it is stored."""
        if not self.has():
            self.make()

    def seconds(self) -> float:
        """What the classifier that is stored did cost.

        Raises:
            StoreError: None is stored.
        """
        return self.store.record(self.key()).seconds

    def elsewhere(self, data: GroupDataModule, store: Path) -> Self:
        """The same for other groups of the same samples, into another store, without logs."""
        return replace(self, data=data, store=ClassifierStore(store), trainers=self.trainers.silent())

    def module(self) -> GroupClassifier:
        """A classifier that has learnt nothing yet.

        Raises:
            ConfigError: Labels or prompts tell the groups, or the network does not fit the images.
        """
        return GroupClassifier(self.plan, self.data, self.full.model, self.seed)

    def _batches(self, data: HeldOutDataModule) -> int:
        """Batches per epoch."""
        step: int = self.hparams["batch_size"]
        return max(1, len(data.kept) // step)


def classifier_hparams(plan: ClassifierPlan, data: GroupDataModule, trainer: Trainer) -> dict[str, Any]:
    """All hyper-parameters of a classifier, as JSON values.

    Args:
        plan: Network and training.
        data: The training data of the full model.
        trainer: The trainer that runs it, or one of the same settings.
    """
    of_all = replace(plan, batch_size=plan.batch_size * trainer.world_size)  # processes
    return {
        **network_hparams(of_all, data.input_shape),
        **training_hparams(data, trainer),
        "batch_size": of_all.batch_size,
    }
