"""What stages tell the user: what they will cost, what they did cost, what is complete."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_only

from guda_lightning.data import GroupDataModule
from guda_lightning.diffusion import DiffusionModel, DiffusionModule, FullModel
from guda_lightning.diffusion.cost import readable_seconds, seconds_per_evaluation, seconds_per_step
from guda_lightning.progress_bar import Bar, progress_bar

# Beside the network, on an AMD EPYC: small where the network is not (docs/benchmarks.md).
STEP_SECONDS = 0.004  # Lightning's loop, batches, noise and moving averages of a training step
TRAINING_SECONDS = 0.5  # a trainer's start, and saving what it made


@rank_zero_only
def say(text: str) -> None:
    """Tell the user, once; what would move the cursor in a name is a question mark."""
    print(re.sub(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", "?", text), flush=True)


def bar_of(trainer: Trainer, title: str, unit: str, total: int | None = None, initial: int = 0) -> Bar:
    """A progress bar, unless the trainer's are disabled or this is not the first process."""
    shown = trainer.is_global_zero and trainer.progress_bar_callback is not None
    return progress_bar(title, unit, total, initial=initial, shown=shown, lines=True)


def say_skipped(stage: str, names: Sequence[str]) -> None:
    """Tell the user what is complete already."""
    if names:
        say(f"{stage}: {len(names)} complete, skipped: {', '.join(names)}")


def say_cost(what: str, seconds: float | None) -> None:
    """Tell the user what a stage will cost before it starts; None: nobody knows."""
    say(what if seconds is None else f"{what}: about {readable_seconds(seconds)}")


def is_timed(trainer: Trainer, elsewhere: bool = False) -> bool:
    """Whether a network may be tried out before the work.

    One that is spread need not fit one device; where others do the work, the GPU is theirs; and weights of
    another precision are those of the training alone.
    """
    waits = elsewhere and trainer.strategy.root_device.type != "cpu"
    converted = trainer.precision not in ("32-true", "16-mixed", "bf16-mixed")
    return not (waits or converted or isinstance(trainer.strategy, ModelParallelStrategy))


def spent(record: Mapping[str, Any]) -> str:
    """What a stage did cost, from its record, and what has ended it if no count of steps has."""
    cost = f"{readable_seconds(record['seconds'])}, {record['network_evaluations']} network evaluations"
    return cost if record["stopped"] is None else f"{cost}, {record['steps']} steps ({record['stopped']})"


def evaluation_seconds(
    model: DiffusionModel,
    datamodule: GroupDataModule,
    batch_size: int,
    device: torch.device | str,
) -> float:
    """Measured seconds of one network evaluation without gradients."""
    prompted = model.prompted(datamodule.prompts)  # a module takes them only when its training begins
    return seconds_per_evaluation(
        prompted, datamodule.input_shape, batch_size, device, datamodule.num_classes
    )


def say_fit_cost(
    stage: str,
    trainer: Trainer,
    model: LightningModule,
    full: FullModel,
    datamodule: GroupDataModule,
    models: int = 1,
    elsewhere: bool = False,
) -> None:
    """Tell the user what training will cost; a step of a foreign module is taken as one of ours."""
    what = f"{stage}:" if models == 1 else f"{stage}: {models} models x"
    count = training_batches(trainer, datamodule)
    network = model.student if isinstance(model, DiffusionModule) else full.model
    size = datamodule.batch_size * trainer.world_size
    device, autocast = trainer.strategy.root_device, trainer.precision_plugin.forward_context
    timed = is_timed(trainer, elsewhere)
    per_step = step_seconds(network, datamodule, device, autocast) if timed else None
    if count is not None:
        steps_of = f"{what} {count} steps of {size} images"
        each = None if per_step is None else per_step * count + TRAINING_SECONDS
        say_cost(steps_of, None if each is None else each * models)
    elif per_step is not None:
        say(f"{what} no end is set, each step of {size} images takes about {per_step:.2g} s")


def training_batches(trainer: Trainer, datamodule: GroupDataModule) -> int | None:
    """Batches of a training, to whichever of ``max_steps`` and ``max_epochs`` comes first; None: neither."""
    limit = trainer.limit_train_batches
    batches = max(1, len(datamodule.kept) // (datamodule.batch_size * trainer.world_size))
    batches = min(batches, limit) if isinstance(limit, int) else max(1, int(batches * limit))
    epochs = None if trainer.max_epochs is None or trainer.max_epochs < 0 else trainer.max_epochs
    steps = trainer.max_steps * trainer.accumulate_grad_batches if trainer.max_steps >= 0 else None
    counts = [count for count in (steps, None if epochs is None else epochs * batches) if count is not None]
    return min(counts, default=None)


def step_seconds(
    model: DiffusionModel,
    datamodule: GroupDataModule,
    device: torch.device | str,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    batches: int = 1,
    other_passes: float = 0,
) -> float:
    """Estimated seconds of one training step.

    Args:
        model: What is trained.
        datamodule: The training data.
        device: Where it is trained.
        autocast: The precision of forward passes.
        batches: Batches that a step learns from.
        other_passes: Forward passes of a batch through a model that is not trained.
    """
    size = datamodule.batch_size
    prompted = model.prompted(datamodule.prompts)  # a module takes them when its training begins
    step = seconds_per_step(
        prompted, datamodule.input_shape, batches * size, device, autocast, datamodule.num_classes
    )
    others = evaluation_seconds(model, datamodule, size, device) if other_passes else 0.0
    return size * (batches * step + other_passes * others) + STEP_SECONDS


class TimeLeft:
    """How long a loop over equal units of work will take, by those that are done.

    Args:
        units: How many there are.
    """

    def __init__(self, units: int) -> None:
        self._left, self._done, self._start = units, 0, time.monotonic()

    def after_one(self) -> str:
        """What to add to the message about a unit that is done; nothing after the last one."""
        self._left, self._done = self._left - 1, self._done + 1
        seconds = (time.monotonic() - self._start) / self._done * self._left
        return f"; about {readable_seconds(seconds)} left" if self._left else ""
