"""What tells a counterfactual from another of the same groups: all that its unlearning depends on."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn

from guda_lightning.data import GroupDataModule
from guda_lightning.diffusion import DiffusionModel, DiffusionModule
from guda_lightning.diffusion.adapters import Lora
from guda_lightning.errors import ConfigError
from guda_lightning.storage.files import sha256_json
from guda_lightning.unlearning.objectives import Objective


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
        optimizer: Builds the optimizer.
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
    """
    return {
        "batch_size": data.batch_size * trainer.world_size,
        "horizontal_flip": data.horizontal_flip,
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        "gradient_clip_val": trainer.gradient_clip_val,
        "gradient_clip_algorithm": str(trainer.gradient_clip_algorithm or "norm"),
        "limit_train_batches": trainer.limit_train_batches,
        "precision": str(trainer.precision),
    }


def module_hparams(module: LightningModule, model: DiffusionModel) -> dict[str, Any]:
    """What tells an untrained module from others as far as it shows, as JSON values, its seed left out.

    That is its layers, its numbers and texts (``self.learning_rate``, ``save_hyperparameters``), and the
    optimizer and learning-rate schedule of a ``DiffusionModule``. What only the code of another module says
    does not show.

    Args:
        module: The module.
        model: The diffusion model in it.
    """
    shown = {
        name: value for name, value in _plain({**module.hparams, **vars(module)}).items() if name != "seed"
    }
    found = {
        "class": type(module).__name__,
        "layers": sha256_json(re.sub(r" at 0x[0-9a-f]+", "", repr(module)))[:16],
        "schedule_hash": model.schedule.hash,
        "prediction": model.prediction,
        **shown,
    }
    if isinstance(module, DiffusionModule):
        optimizer = module.optimizer([nn.Parameter(torch.zeros(1))])
        parts: list[tuple[str, object, dict[str, Any]]] = [("optimizer", optimizer, optimizer.defaults)]
        if module.lr_scheduler is not None:
            schedule = module.lr_scheduler(optimizer)
            parts.append(("lr_scheduler", schedule, vars(schedule)))
        found |= {name: {"class": type(part).__name__, **_plain(values)} for name, part, values in parts}
    return found


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The public ones that are JSON values."""
    listed = {name: _listed(value) for name, value in values.items()}
    return {name: value for name, value in listed.items() if name[0] != "_" and _is_plain(value)}


def _listed(value: Any) -> Any:
    """Dataclasses as mappings, tuples as lists."""
    if is_dataclass(value) and not isinstance(value, type):
        return {name: _listed(part) for name, part in asdict(value).items()}
    return list(value) if isinstance(value, tuple) else value


def _is_plain(value: object) -> bool:
    if isinstance(value, list):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    return isinstance(value, (int, str, type(None))) or (isinstance(value, float) and math.isfinite(value))


def optimizer_hparams(
    optimizer: Callable[[Any], torch.optim.Optimizer], lr_scheduler: Callable[[Any], Any] | None, steps: int
) -> dict[str, object]:
    """What identifies an optimizer: its class, its defaults and the learning rate of every step."""
    parameter = nn.Parameter(torch.zeros(1))
    made = optimizer([parameter])
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
    rate = {"first": rates[0], "max": max(rates), "last": rates[-1], "hash": sha256_json(rates)[:16]}
    return {"optimizer": {"class": type(made).__name__, **_plain(made.defaults)}, "learning_rate": rate}
