"""What tells a counterfactual from another of the same groups: all that its unlearning depends on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import nn

from guda_lightning.data import GroupDataModule
from guda_lightning.errors import ConfigError
from guda_lightning.files import sha256_json
from guda_lightning.unlearning.objectives import Objective


def unlearning_hparams(
    objective: Objective,
    optimizer: Callable[[Any], torch.optim.Optimizer],
    lr_scheduler: Callable[[Any], Any] | None,
    steps: int,
    data: GroupDataModule,
    trainer: Trainer,
) -> dict[str, Any]:
    """All hyper-parameters of an unlearning, as JSON values.

    Args:
        objective: What it minimises.
        optimizer: Builds the optimizer.
        lr_scheduler: Builds the learning-rate schedule.
        steps: Optimizer steps.
        data: The training data of the full model.
        trainer: The trainer that runs it, or one of the same settings.
    """
    return {
        "objective": {"class": type(objective).__name__, **objective.hparams},
        "steps": steps,
        "data_seed": data.seed,
        **training_hparams(data, trainer),
        **optimizer_hparams(optimizer, lr_scheduler, steps),
    }


def training_hparams(data: GroupDataModule, trainer: Trainer) -> dict[str, Any]:
    """What any training of these data on this trainer depends on, as JSON values."""
    return {
        "batch_size": data.batch_size,
        "horizontal_flip": data.horizontal_flip,
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        "gradient_clip_val": trainer.gradient_clip_val,
        "gradient_clip_algorithm": str(trainer.gradient_clip_algorithm or "norm"),
        "limit_train_batches": trainer.limit_train_batches,
        "precision": str(trainer.precision),
        "world_size": trainer.world_size,
    }


def optimizer_hparams(
    optimizer: Callable[[Any], torch.optim.Optimizer], lr_scheduler: Callable[[Any], Any] | None, steps: int
) -> dict[str, object]:
    """What identifies an optimizer: its class, its defaults and the learning rate of every step."""
    parameter = nn.Parameter(torch.zeros(1))
    made = optimizer([parameter])
    defaults = {k: list(v) if isinstance(v, tuple) else v for k, v in made.defaults.items()}
    rates = [made.param_groups[0]["lr"]] * steps
    if lr_scheduler is not None:
        schedule = lr_scheduler(made)
        if isinstance(schedule, torch.optim.lr_scheduler.ReduceLROnPlateau):
            raise ConfigError(
                "unlearning has no metric for its learning rate to follow",
                found="ReduceLROnPlateau",
                expected="a schedule that depends on the step alone",
                fix="choose another lr_scheduler, e.g. torch.optim.lr_scheduler.CosineAnnealingLR",
            )
        for step in range(steps):
            rates[step] = made.param_groups[0]["lr"]
            made.step()
            if step < steps - 1:
                schedule.step()
    plain = {k: v for k, v in defaults.items() if isinstance(v, (int, float, str, bool, list, type(None)))}
    rate = {"first": rates[0], "max": max(rates), "last": rates[-1], "hash": sha256_json(rates)[:16]}
    return {"optimizer": {"class": type(made).__name__, **plain}, "learning_rate": rate}
