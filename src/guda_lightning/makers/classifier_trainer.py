"""``ClassifierTrainer``: trains a classifier from which every group's counterfactual follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from lightning.pytorch import Trainer

from guda_lightning.data import GroupDataModule, HeldOutDataModule
from guda_lightning.diffusion.cost import TrainingCost
from guda_lightning.distributed.ranks import Ranks
from guda_lightning.makers.posterior_maker import PosteriorMaker
from guda_lightning.makers.trainers import Training, spent_by
from guda_lightning.posteriors import (
    ClassifierPlan,
    GroupClassifier,
    NoiseLevel,
    PosteriorRecord,
    network_hparams,
    weights_of,
)
from guda_lightning.unlearning.hparams import training_hparams

_CHECKPOINTS = 10  # of a training: its epochs take less time than writing one


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassifierTrainer(PosteriorMaker):
    """Trains a classifier of all groups of a full model.

    Attributes:
        plan: Network, steps, learning rate and held-out share.
    """

    plan: ClassifierPlan

    operator = "classifier"
    trains = True

    @property
    def cost(self) -> str:
        """Of its training."""
        parameters = sum(p.numel() for p in self.module().network.parameters())
        return (
            f"up to {self.plan.steps} steps of {self.plan.batch_size} images through a classifier of "
            f"{parameters} parameters"
        )

    @property
    def name(self) -> str:
        """With the channels of its convolutions."""
        channels = self.plan.channels_for(self.data.input_shape)
        return (
            f"convolutional classifier ({', '.join(map(str, channels))})" if channels else "dense classifier"
        )

    def _at(self, level: Mapping[str, Any]) -> str:
        return described_level(level)

    def lines(self, record: PosteriorRecord) -> list[str]:
        """See ``PosteriorMaker.lines``; and whether it was still learning when its training ended."""
        if record.is_settled:
            return super().lines(record)
        return [
            *super().lines(record),
            f"still learning: {record.last_quarter:.0%} of what it learnt came in the last quarter of its "
            "steps, so no size is claimed for its scores; raise --classifier.steps",
        ]

    def make(self) -> PosteriorRecord | None:
        """Train, calibrate and store the classifier; continues what was interrupted.

        Returns:
            How it was made. None after a dry run (``fast_dev_run``), which stores nothing, and where another
            command has made it meanwhile.

        Raises:
            GudaError: The data and the full model do not fit guidance.
        """
        key, module = self.key(), self.module()
        data = HeldOutDataModule(self.data, self.plan.held_out, self.plan.batch_size, self.seed)
        cost = TrainingCost(module.network)

        def keep(trainer: Trainer) -> PosteriorRecord:
            module.to(trainer.strategy.root_device).calibrate(data)
            module.take_moments(data)
            levels = [level.to_row() for level in module.levels]
            found: dict[str, Any] = {
                "levels": levels,
                "last_quarter": module.stopping.last_quarter(module.chance),
            }
            spent = {**spent_by(trainer, cost), "stopped": module.stopping.outcome}
            record = PosteriorRecord.of(key, self.hparams, self.provenance, **found, **spent)
            Ranks.of(trainer).on_rank_zero(partial(self.store.save, weights_of(module), record))
            return record

        training = Training(
            "guide",
            self.name,
            key.folder_name,
            made_from=self.provenance.of_training(),
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
        return self.trainers.train(training, module, data, keep, self.has)

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


def described_level(level: Mapping[str, Any]) -> str:
    """What users are told of how well a classifier does at a noise level.

    Args:
        level: A ``NoiseLevel`` as JSON values.
    """
    row = NoiseLevel(**level)
    said = f"held-out accuracy {row.accuracy:.2f}, calibration error {row.ece_tempered:.3f}"
    if row.ece_small is not None:
        said += f"; small groups {row.ece_small:.0%} off, others {row.ece_large:.0%}"
    return said
