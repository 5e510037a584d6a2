"""``Retrainer``: trains the full model anew, without groups: the oracle."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from lightning.pytorch import LightningModule, Trainer, seed_everything

from guda_lightning.counterfactuals import RETRAIN, CounterfactualKey, CounterfactualRecord
from guda_lightning.data import GroupDataModule
from guda_lightning.diffusion import DiffusionModule
from guda_lightning.diffusion.cost import TrainingCost
from guda_lightning.diffusion.training import time_hparams
from guda_lightning.diffusion.weights import ordinary_weights, weights_hash
from guda_lightning.distributed.ranks import Ranks
from guda_lightning.makers.layout import Layout
from guda_lightning.makers.maker import Maker
from guda_lightning.makers.trainers import Training, spent_by
from guda_lightning.storage.config import without_seeds
from guda_lightning.storage.files import sha256_json
from guda_lightning.unlearning.hparams import module_hparams, training_hparams

_NAMED = 80  # characters of the groups in a W&B run's name, which takes 128


@dataclass(frozen=True, kw_only=True, eq=False)
class Retrainer(Maker):
    """Trains a model from the start, without some groups.

    Attributes:
        build: Makes the untrained module; called after the random generators are seeded.
        layout: Where the module has its diffusion model, and the weights that training starts with.
        paired: Whether the models of one seed begin with the same weights, see the samples that they share in
            the same order and draw the same noise; else each has a seed of its own.
    """

    build: Callable[[], LightningModule]
    layout: Layout
    paired: bool = True

    @property
    def operator(self) -> str:
        """``retrain``."""
        return RETRAIN

    def make(self, groups: Sequence[str]) -> CounterfactualRecord | None:
        """Train one model without some groups, and store it."""
        key = self.key(groups)
        seed = self.seed if self.paired else own_seed(key)
        seed_everything(seed, workers=True, verbose=False)
        model = self.build()
        if isinstance(model, DiffusionModule):
            model.seed = seed
        self.layout.initialize(model)
        view = self.data.without(key.groups, seed)
        cost = TrainingCost(*self.layout.networks(model))

        def keep(trainer: Trainer) -> CounterfactualRecord:
            members = view.grouping.members_hash(key.groups)
            spent = spent_by(trainer, cost)
            record = CounterfactualRecord.of(
                key, self.hparams, self.provenance, members_hash=members, **spent
            )
            weights = ordinary_weights(self.layout.full(model).model.denoiser)
            Ranks.of(trainer).on_rank_zero(partial(self.store.save, weights, record))
            return record

        named = key.name if len(key.name) <= _NAMED else key.folder_name
        training = Training(
            "retrain",
            f"{named} seed {key.seed}",
            key.folder_name,
            made_from=self.provenance.of_training(),
            hparams=self._hparams_for_loggers(key.groups),
            callbacks=[cost],
        )
        return self.trainers.train(training, model, view, keep, partial(self.has, groups))

    def seconds(self) -> float | None:
        """None: what a step of a module costs is known once it is built (``say_fit_cost``)."""
        return None


def own_seed(key: CounterfactualKey) -> int:
    """A seed for one counterfactual alone, from the seed of all and its groups."""
    return int(sha256_json([key.seed, list(key.groups)])[:7], 16)


def retraining_hparams(
    module: LightningModule,
    layout: Layout,
    data: GroupDataModule,
    trainer: Trainer,
    config: Mapping[str, Any],
    paired: bool,
) -> dict[str, Any]:
    """All hyper-parameters of a retraining, as JSON values.

    Args:
        module: The untrained module, not started from other weights yet.
        layout: Where it has its diffusion model, and the weights that training starts with.
        data: The training data of the full model.
        trainer: A trainer of the same settings.
        config: What the module is made from; if empty, it is told from others as far as that shows
            (``module_hparams``).
        paired: Whether the models of one seed share all that they can.
    """
    started = layout.initialize(module)
    weights = ordinary_weights(started.model.denoiser)
    made = {"config": without_seeds(config)} if config else {"module": module_hparams(module, started.model)}
    return {
        **made,
        "paired": paired,
        "start": None if layout.start is None else weights_hash(weights),  # the module says the rest
        "max_steps": trainer.max_steps,
        "max_epochs": trainer.max_epochs,
        **training_hparams(data, trainer),
        **time_hparams(trainer),
    }
