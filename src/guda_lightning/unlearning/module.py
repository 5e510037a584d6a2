"""``UnlearnModule``: a frozen full model, a student, and one objective for one set of groups."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torchmetrics import MeanMetric

from guda_lightning import compat
from guda_lightning.counterfactuals import CounterfactualKey, CounterfactualRecord, CounterfactualStore
from guda_lightning.data import UnlearnDataModule
from guda_lightning.data.forget_retain import ForgetData
from guda_lightning.diffusion import DiffusionModel, DiffusionModule, FullModel
from guda_lightning.diffusion.adapters import BeneathAdapter, Lora, add_adapter, own_weights
from guda_lightning.diffusion.cost import TrainingCost
from guda_lightning.diffusion.labels import num_labels, refuse_labels
from guda_lightning.diffusion.module import Batch
from guda_lightning.diffusion.training import early_stop
from guda_lightning.diffusion.weights import ordinary_weights
from guda_lightning.distributed.ranks import Ranks
from guda_lightning.errors import ConfigError
from guda_lightning.storage.files import sha256_json
from guda_lightning.unlearning.bound import ObjectiveContext
from guda_lightning.unlearning.hparams import unlearning_hparams
from guda_lightning.unlearning.objective import Objective

_KEY = "guda_lightning.Objective"  # in a checkpoint


def default_optimizer(parameters: Any) -> torch.optim.Optimizer:
    """AdamW at 3e-4: 60 steps of it unlearn a group of the digits (docs/benchmarks.md)."""
    return torch.optim.AdamW(parameters, lr=3e-4)


class UnlearnModule(DiffusionModule):
    """Turns the full model into the counterfactual that never saw the given groups.

    A training batch is ``{"forget": batch, "retain": batch}``, as ``GroupDataModule.unlearning`` pairs them.
    Logged every step under ``unlearn/``: the forget and preserve losses, the target's root mean square
    per dimension, and the objective's own diagnostics. At validation, on samples of every group:
    ``unlearn/drift`` (mean squared difference from the full model on retain samples), and the denoising
    losses ``unlearn/retain_loss`` and ``unlearn/forget_loss``.

    Args:
        full: The full model. ``FullModel.of(module, denoiser="unet", scheduler="noise_scheduler")`` takes it
            from a LightningModule that knows nothing of this library.
        objective: What to minimise.
        groups: Names of the groups to forget.
        optimizer: Builds the optimizer from the student's parameters.
        lr_scheduler: Builds a learning-rate schedule that advances every step.
        seed: Seed of the noise and the timesteps, and of the adapter.
        lora: Unlearn in a low-rank adapter beside the full model's weights; None changes all weights.
    """

    def __init__(
        self,
        full: FullModel,
        objective: Objective,
        groups: Sequence[str],
        optimizer: OptimizerCallable = default_optimizer,
        lr_scheduler: LRSchedulerCallable | None = None,
        seed: int = 0,
        lora: Lora | None = None,
    ) -> None:
        student = copy.deepcopy(full.model.denoiser).train().requires_grad_(True)
        if lora is not None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                add_adapter(student, lora)
        super().__init__(
            denoiser=student,
            scheduler=full.scheduler,
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
            conditional=full.model.conditional,
            seed=seed,
        )
        self.prompts = full.model.prompts
        self.full_denoiser: nn.Module | None = None
        if lora is None:
            self.full_denoiser = copy.deepcopy(full.model.denoiser).eval().requires_grad_(False)
        self.cost = TrainingCost(*(n for n in (self.denoiser, self.full_denoiser) if n is not None))
        self.provenance = full.provenance()
        self.objective, self.lora = objective, lora
        self._resumed: dict[str, Tensor] = {}  # of the objective, from a checkpoint
        self.groups = tuple(groups)
        self.drift, self.retain_loss, self.forget_loss = MeanMetric(), MeanMetric(), MeanMetric()

    @property
    def full(self) -> DiffusionModel:
        """The frozen full model, on this module's device; beneath the adapter, if there is one."""
        if self.full_denoiser is None:
            return BeneathAdapter(**vars(self.student))
        return replace(self.student, denoiser=self.full_denoiser)

    def train(self, mode: bool = True) -> UnlearnModule:
        """Set the student's mode; the full model stays in evaluation mode, without dropout."""
        super().train(mode)
        if self.full_denoiser is not None:
            self.full_denoiser.eval()
        return self

    def configure_callbacks(self) -> list[Callback]:
        """Measure what the training costs, for the record."""
        return [self.cost]

    def _networks(self) -> list[nn.Module]:
        return [*super()._networks(), *([] if self.full_denoiser is None else [self.full_denoiser])]

    @property
    def full_hash(self) -> str:
        """Identity of the full model's weights."""
        return self.provenance.full_hash

    def on_fit_start(self) -> None:
        """Bind the objective to the data.

        Raises:
            ConfigError: The datamodule does not pair forget and retain samples, or those of other groups, or
                the network does not take the class labels of the data.
            DataError: Its images have another size than the network takes.
            GudaError: The objective cannot forget these groups.
        """
        self._full = self.full
        data: Any = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, ForgetData):
            raise ConfigError(
                "the datamodule does not pair forget and retain samples",
                found=f"datamodule {type(data).__name__}",
                expected="a datamodule with groups, grouping, forget_images() and retain_images()",
                fix="pass datamodule=GroupDataModule(...).unlearning(groups) to trainer.fit",
            )
        if set(data.groups) != set(self.groups):
            raise ConfigError(
                "the module and its data forget different groups",
                found=f"data of {', '.join(data.groups)}",
                expected=f"data of {', '.join(self.groups)}",
                fix="pass the same groups to UnlearnModule and to GroupDataModule.unlearning",
            )
        if isinstance(data, UnlearnDataModule):
            data.parent.take_size(self.full.sample_size)
            refuse_labels(self.full, data.parent.num_classes)
        provenance = replace(self.provenance, grouping_hash=data.grouping.hash)
        made_from = data, self._schedule, provenance, self.device, self.conditional, self._ranks
        self._bound = self.objective.bind(ObjectiveContext(*made_from, num_labels(self.student.denoiser)))
        self._bound.state.update(self._resumed)

    def save(
        self,
        store: CounterfactualStore | str | Path,
        history: Sequence[Mapping[str, Any]] = (),
        hparams: Mapping[str, Any] | None = None,
    ) -> CounterfactualRecord:
        """Store the student as the counterfactual of its groups, after ``trainer.fit``.

        All processes call this: the first one writes, and the others wait for it.

        Args:
            store: The store or its folder.
            history: Rows ``group, step, own, other`` of an ``ELBOAttributionCallback``, for the page.
            hparams: Every hyper-parameter, as JSON values; None takes them from the training.

        Returns:
            The record of how it was made.

        Raises:
            ConfigError: There was no training to its end, or none whose hyper-parameters are known.
        """
        if not self.cost.finished or compat.is_dry_run(self.trainer):
            raise ConfigError(
                "only a student that has unlearned can be stored",
                found="a dry run (fast_dev_run)"
                if self.cost.finished
                else "no finished training in this process",
                expected="a training to its end",
                fix="call trainer.fit(module, datamodule=data.unlearning(groups)) first",
            )
        data: Any = getattr(self.trainer, "datamodule", None)
        if hparams is None:
            hparams = self._unlearning_hparams(data)
        record = CounterfactualRecord.of(
            CounterfactualKey(self.objective.operator, self.groups, self.seed, sha256_json(hparams)),
            hparams,
            replace(
                self.provenance,
                grouping_hash=data.grouping.hash,
                input_shape=getattr(data, "input_shape", None),
                data_hash=getattr(data, "hash", None),
            ),
            members_hash=data.grouping.members_hash(self.groups),
            seconds=self.cost.seconds,
            core_seconds=self.cost.core_seconds,
            steps=self.trainer.global_step,
            network_evaluations=self.cost.evaluations,
            stopped=early_stop(self.trainer),
            history=[dict(row) for row in history],
            sized=self.objective.sized,
        )
        store = store if isinstance(store, CounterfactualStore) else CounterfactualStore(store)
        weights = ordinary_weights(self.denoiser) if self.lora is None else own_weights(self.denoiser)
        Ranks.of(self.trainer).on_rank_zero(partial(store.save, weights, record))
        return record

    def _unlearning_hparams(self, data: object) -> dict[str, Any]:
        if not isinstance(data, UnlearnDataModule):
            raise ConfigError(
                "unknown hyper-parameters of this unlearning",
                found=f"datamodule {type(data).__name__}",
                expected="a training on GroupDataModule(...).unlearning(groups), or hparams",
                fix="pass hparams={...} with all that the counterfactual depends on",
            )
        return unlearning_hparams(
            self.objective,
            self.optimizer,
            self.lr_scheduler,
            self.trainer.global_step,
            data.parent,
            self.trainer,
            self.lora,
        )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The objective's loss on one pair of forget and retain batches."""
        forget, retain = (self.noised(batch[side], self._generator) for side in ("forget", "retain"))
        self._bound.generator = self._generator
        loss = self._bound.loss(self._model, self._full, forget, retain)
        self.log("unlearn/loss", loss.total, prog_bar=True, batch_size=len(retain.x0))
        self.log_dict({f"unlearn/{k}": v for k, v in loss.parts.items()}, batch_size=len(retain.x0))
        self.check_scalars(loss=loss.total)
        return loss.total

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Let the objective change weights right after the optimizer, before anyone sees them."""
        super().optimizer_step(*args, **kwargs)
        self._bound.after_step(self._model)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what the objective needs to go on."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[_KEY] = dict(self._bound.state)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Hand on what the objective needs, once it is bound."""
        super().on_load_checkpoint(checkpoint)
        self._resumed = checkpoint.get(_KEY, {})

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Denoising losses of the student and its drift from the full model, always with the same noise."""
        noised = self.noised(batch, torch.Generator(self.device).manual_seed(batch_idx))
        student = self.student
        output = student.output(noised.x_t, noised.timesteps, noised.labels)
        kept = self.full.output(noised.x_t, noised.timesteps, noised.labels)
        drift = (output - kept).square().flatten(1).mean(dim=1)
        loss = (output - noised.target(student.prediction)).square().flatten(1).mean(dim=1)
        forget = self.is_forget(batch)
        self.drift.update(drift, (~forget).float())
        self.retain_loss.update(loss, (~forget).float())
        self.forget_loss.update(loss, forget.float())

    def on_validation_epoch_end(self) -> None:
        """Log what all processes saw together: one of them, or all, may have had no forget samples."""
        for name in ("drift", "retain_loss", "forget_loss"):
            metric: MeanMetric = getattr(self, name)
            mean = metric.compute()
            if not bool(mean.isnan()):
                self.log(f"unlearn/{name}", mean, sync_dist=True)  # of equal numbers
            metric.reset()

    def is_forget(self, batch: Batch) -> Tensor:
        """``[batch]`` bool, which samples of a validation batch belong to the groups to forget.

        Raises:
            ConfigError: The data do not say.
        """
        data: Any = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, ForgetData) or "groups" not in batch:
            raise ConfigError(
                "the validation data do not say which samples belong to which groups",
                found=f"datamodule {type(data).__name__}, and batch keys {sorted(map(str, batch))}",
                expected="a datamodule with groups, and 'groups' in every batch",
                fix="pass datamodule=GroupDataModule(...).unlearning(groups) to the trainer",
            )
        names = data.grouping.names
        columns = [names.index(group) for group in self.groups]
        member: Tensor = batch["groups"][:, columns].any(dim=1)
        return member
