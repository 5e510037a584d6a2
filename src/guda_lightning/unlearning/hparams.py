"""Hyper-parameters as JSON values: what tells a training from another of the same data.

``unlearning_hparams`` identifies an unlearning; the others, what any training shares with it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn

from guda_lightning.data import GroupDataModule
from guda_lightning.diffusion import DiffusionModel, DiffusionModule
from guda_lightning.diffusion.adapters import Lora
from guda_lightning.diffusion.training import rare_hparams
from guda_lightning.errors import ConfigError
from guda_lightning.storage.files import sha256_json

if TYPE_CHECKING:
    from guda_lightning.unlearning.objective import Objective


def unlearning_hparams(
    objective: Objective,
    optimizer: Callable[[Any], torch.optim.Optimizer],
    lr_scheduler: Callable[[Any], Any] | None,
    steps: int,
    data: GroupDataModule,
    trainer: Trainer,
    lora: Lora | None = None,
) -> dict[str, Any]:
    """All hyper-parameters of an unlearning, as JSON values.

    Args:
        objective: What it minimises.
        optimizer: Builds the optimizer from parameters.
        lr_scheduler: Builds the learning-rate schedule.
        steps: Optimizer steps.
        data: The training data of the full model.
        trainer: The trainer that runs it, or one of the same settings.
        lora: The adapter that it trains; None trains all weights.
    """
    return {
        **({} if lora is None else {"lora": {"rank": lora.rank, "targets": list(lora.targets)}}),
        "objective": {"class": type(objective).__name__, **objective.hparams},
        "steps": steps,
        "data_seed": data.seed,
        **training_hparams(data, trainer),
        **optimizer_hparams(optimizer, lr_scheduler, steps),
    }


def training_hparams(data: GroupDataModule, trainer: Trainer) -> dict[str, Any]:
    """What any training of these data on this trainer depends on, as JSON values.

    Processes share a batch: how many there are makes no difference but for dropout.

    Args:
        data: The training data.
        trainer: The trainer that runs it, or one of the same settings.
    """
    return {
        "batch_size": data.batch_size * trainer.world_size,
        "horizontal_flip": data.horizontal_flip,
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        "gradient_clip_val": trainer.gradient_clip_val,
        "gradient_clip_algorithm": str(trainer.gradient_clip_algorithm or "norm"),
        "limit_train_batches": trainer.limit_train_batches,
        "precision": str(trainer.precision),
        **rare_hparams(trainer),
    }


def module_hparams(module: LightningModule, model: DiffusionModel) -> dict[str, Any]:
    """What identifies an untrained module, as far as its attributes show it, as JSON values without its seed.

    That is its layers, its numbers and texts (``self.learning_rate``, ``save_hyperparameters``), and the
    optimizer and learning-rate schedule of a ``DiffusionModule``. What only the code of another module says
    does not show.

    Args:
        module: The module.
        model: The diffusion model in it.
    """
    shown = public_json({**module.hparams, **vars(module)})
    shown.pop("seed", None)
    found = {
        "class": type(module).__name__,
        "layers": sha256_json(re.sub(r" at 0x[0-9a-f]+", "", repr(module)))[:16],
        "schedule_hash": model.schedule.hash,
        "prediction": model.prediction,
        **shown,
    }
    if isinstance(module, DiffusionModule):
        optimizer = module.optimizer([nn.Parameter(torch.zeros(1))])
        found["optimizer"] = {"class": type(optimizer).__name__, **public_json(optimizer.defaults)}
        if module.lr_scheduler is not None:
            schedule = module.lr_scheduler(optimizer)
            found["lr_scheduler"] = {"class": type(schedule).__name__, **public_json(vars(schedule))}
    return found


def optimizer_hparams(
    optimizer: Callable[[Any], torch.optim.Optimizer], lr_scheduler: Callable[[Any], Any] | None, steps: int
) -> dict[str, object]:
    """What identifies an optimizer: its class, its defaults and the learning rate of every step.

    Args:
        optimizer: Builds the optimizer from parameters.
        lr_scheduler: Builds the learning-rate schedule from the optimizer; None keeps the rate.
        steps: Optimizer steps.

    Raises:
        ConfigError: The learning rate depends on more than the step.
    """
    parameter = nn.Parameter(torch.zeros(1))
    built = optimizer([parameter])
    rates = [built.param_groups[0]["lr"]] * steps
    if lr_scheduler is not None:
        schedule = lr_scheduler(built)
        if isinstance(schedule, torch.optim.lr_scheduler.ReduceLROnPlateau):
            raise ConfigError(
                "unlearning has no metric for its learning rate to follow",
                found="ReduceLROnPlateau",
                expected="a schedule that depends on the step alone",
                fix="choose another lr_scheduler, e.g. torch.optim.lr_scheduler.CosineAnnealingLR",
            )
        for step in range(steps):
            rates[step] = built.param_groups[0]["lr"]
            built.step()
            if step < steps - 1:
                schedule.step()
    rate = {"first": rates[0], "max": max(rates), "last": rates[-1], "hash": sha256_json(rates)[:16]}
    return {
        "optimizer": {"class": type(built).__name__, **public_json(built.defaults)},
        "learning_rate": rate,
    }


def public_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """The entries that are JSON values and whose names have no underscore in front."""
    public = {name: as_json(value) for name, value in values.items() if name[0] != "_"}
    return {name: value for name, value in public.items() if is_json(value)}


def as_json(value: Any) -> Any:
    """A dataclass as a mapping, a tuple as a list, and anything else as it is."""
    if is_dataclass(value) and not isinstance(value, type):
        return {name: as_json(part) for name, part in asdict(value).items()}
    return list(value) if isinstance(value, tuple) else value


def is_json(value: object) -> bool:
    """Whether a value is a text, a finite number, a truth value, None, or lists and mappings of these."""
    if isinstance(value, list):
        return all(map(is_json, value))
    if isinstance(value, dict):
        return all(map(is_json, value.values()))
    return isinstance(value, (int, str, type(None))) or (isinstance(value, float) and math.isfinite(value))
