"""How a stage trains the classifier of guidance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from lightning.pytorch import Trainer

from guda_lightning.counterfactuals import CounterfactualKey
from guda_lightning.data import GroupDataModule, HeldOutDataModule
from guda_lightning.data.grouping import Grouping
from guda_lightning.diffusion import FullModel
from guda_lightning.posteriors import ClassifierPlan, GroupClassifier, guidance_key, network_hparams
from guda_lightning.unlearning.hparams import training_hparams


@dataclass(frozen=True)
class Guiding:
    """All that is the same whatever the groups are.

    Attributes:
        full: The full model.
        plan: Network, steps, learning rate and held-out share.
        conditional: Whether the denoiser takes class labels.
        seed: Seed of the classifier.
        hparams: Every hyper-parameter, as ``guiding_hparams`` gives them.
    """

    full: FullModel
    plan: ClassifierPlan
    conditional: bool
    seed: int
    hparams: Mapping[str, Any]

    def key(self, grouping: Grouping) -> CounterfactualKey:
        """What the classifier of these groups is stored under."""
        return guidance_key(grouping.names, self.seed, self.hparams)

    def module(self, datamodule: GroupDataModule) -> GroupClassifier:
        """A classifier that has learnt nothing yet."""
        return GroupClassifier(self.plan, datamodule, self.full.model.schedule, self.conditional, self.seed)

    def data(self, datamodule: GroupDataModule) -> HeldOutDataModule:
        """What it learns from, less what it is calibrated on."""
        return HeldOutDataModule(datamodule, self.plan.held_out, self.plan.batch_size, self.seed)


def guiding_hparams(plan: ClassifierPlan, datamodule: GroupDataModule, trainer: Trainer) -> dict[str, Any]:
    """All hyper-parameters of a classifier, as JSON values.

    Args:
        plan: Network and training.
        datamodule: The training data of the full model.
        trainer: The trainer that runs it, or one of the same settings.
    """
    of_all = replace(plan, batch_size=plan.batch_size * trainer.world_size)  # processes
    return {
        **network_hparams(of_all, datamodule.input_shape),
        **training_hparams(datamodule, trainer),
        "batch_size": of_all.batch_size,
    }
