"""What of a trainer makes a training what it is, and what has ended one.

Options that say how long and with which batches to train belong to the identity of what is trained, or
nothing of it is kept (docs/concepts.md).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import (
    BaseFinetuning,
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelPruning,
    StochasticWeightAveraging,
    Timer,
    WeightAveraging,
)

from guda_lightning import compat
from guda_lightning.distributed.ranks import Ranks
from guda_lightning.errors import ConfigError

# Callbacks that change what is learnt, or for how long.
_CHANGING = (
    BaseFinetuning,
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelPruning,
    StochasticWeightAveraging,
    WeightAveraging,
)
# Options that matter where such a callback is, each with what the trainer holds if it is left out.
_WITH_CALLBACKS = {
    "min_steps": None,
    "min_epochs": None,
    "limit_val_batches": 1.0,
    "val_check_interval": 1.0,
    "check_val_every_n_epoch": 1,
}
_PRINTED = {"verbose", "log_rank_zero_only"}  # of callbacks


def changing_callbacks(callbacks: Iterable[Callback]) -> list[Callback]:
    """Those that change what is learnt, or for how long."""
    return [callback for callback in callbacks if isinstance(callback, _CHANGING)]


def rare_hparams(trainer: Trainer) -> dict[str, Any]:
    """What makes a training what it is beside the options that every record holds, as JSON values.

    Only what is set: nothing, nearly always.

    Args:
        trainer: The trainer that runs it, or one of the same settings.
    """
    found: dict[str, Any] = {}
    if overfit := vars(trainer)["overfit_batches"]:
        found["overfit_batches"] = overfit
    callbacks = changing_callbacks(compat.callbacks(trainer))
    if callbacks:
        found["callbacks"] = _named(callbacks, trainer)
        for name, left_out in _WITH_CALLBACKS.items():
            if (value := getattr(trainer, name)) != left_out:
                found[name] = value
    return found


def time_hparams(trainer: Trainer) -> dict[str, Any]:
    """``max_time`` in seconds and what it has to wait for, where nothing else ends a training.

    Args:
        trainer: One that has not trained.
    """
    seconds = _seconds_left(trainer)
    if seconds is None or _ends(trainer):
        return {}
    least = {"min_steps": trainer.min_steps, "min_epochs": trainer.min_epochs}
    return {"max_time": seconds, **{name: value for name, value in least.items() if value is not None}}


def refuse_endless(trainer: Trainer) -> None:
    """Refuse a training that never comes to an end, so that nothing of it would ever be kept.

    Raises:
        ConfigError: It has no end.
    """
    stoppers = [c for c in compat.callbacks(trainer) if isinstance(c, EarlyStopping)]
    if not (_ends(trainer) or stoppers or _seconds_left(trainer) is not None):
        raise ConfigError(
            "the training has no end",
            found="max_steps -1, max_epochs -1, no max_time, no EarlyStopping",
            expected="one of them",
            fix="pass --trainer.max_steps N or --trainer.max_epochs N",
        )


def stopped_by(trainer: Trainer) -> str | None:
    """What has ended a training that did what its configuration says; None: its steps or epochs.

    All processes must call this: rank zero decides, by its clock.

    Raises:
        ConfigError: It was ended by something that the configuration does not say, or that depends on the
            machine, before its steps or epochs were over.
    """
    ended = Ranks.of(trainer).broadcast(_ended(trainer, early_stop(trainer)))
    if isinstance(ended, ConfigError):
        raise ended
    return ended


def _ended(trainer: Trainer, early: str | None) -> str | ConfigError | None:
    """What ``stopped_by`` returns or raises, as this process sees it."""
    ends = _ends(trainer)
    if any(now >= end for now, end in ends.values()):
        return None
    if early is not None:
        return early
    found = ", ".join(f"{now} of {end} ({name})" for name, (now, end) in ends.items())
    left = _seconds_left(trainer)
    if left is not None and left <= 0:
        if not ends:
            return "max_time"
        return ConfigError(
            "trainer.max_time was over before the training was",
            found=found,
            expected="all steps or epochs",
            fix="raise max_time, which counts all attempts, or leave it out: the same command goes on "
            "from the last whole epoch",
        )
    return ConfigError(
        "the training has stopped before its end",
        found=found or f"{trainer.global_step} steps and no end",
        expected="all steps or epochs, or an end by EarlyStopping or max_time",
        fix=_fix(trainer),
    )


def early_stop(trainer: Trainer) -> str | None:
    """Which EarlyStopping has ended a training, and why; None: none has. All processes must call this."""
    stopped = [
        f"{type(callback).__name__}: {' '.join(callback.stopping_reason_message.split())}"
        for callback in compat.callbacks(trainer)
        if isinstance(callback, EarlyStopping) and callback.stopping_reason_message is not None
    ]
    # Each process has its own metrics: one may stop all of them, and it alone says why.
    everyone = Ranks.of(trainer).all_gather(stopped)
    return next((reason for reasons in everyone for reason in reasons), None)


def _fix(trainer: Trainer) -> str:
    if trainer.limit_train_batches == 0:
        return "leave out --trainer.limit_train_batches, or raise it: there are no batches"
    if trainer.should_stop:
        return (
            "remove what sets trainer.should_stop, a callback or the module, or derive it from Lightning's "
            "EarlyStopping, which counts as an end; the same command goes on from the last whole epoch"
        )
    return "see that the data have batches: the same command goes on from the last whole epoch"


def _ends(trainer: Trainer) -> dict[str, tuple[int, int]]:
    """The ends that are counted: option to what is done and what is configured."""
    ends = {
        "max_steps": (trainer.global_step, trainer.max_steps),
        "max_epochs": (trainer.current_epoch, -1 if trainer.max_epochs is None else trainer.max_epochs),
    }
    return {name: end for name, end in ends.items() if end[1] >= 0}


def _seconds_left(trainer: Trainer) -> float | None:
    """Of ``max_time``: all of it before a training; None: there is none."""
    timers = [callback for callback in compat.callbacks(trainer) if isinstance(callback, Timer)]
    return min((left for timer in timers if (left := timer.time_remaining()) is not None), default=None)


def _named(callbacks: Iterable[Callback], trainer: Trainer) -> dict[str, Any]:
    """The arguments of callbacks, as far as they keep them, by their classes' names."""
    found: dict[str, Any] = {}
    # What EarlyStopping puts in place of its check_on_train_epoch_end=None once a training begins.
    at_epoch_end = trainer.val_check_interval == 1.0 and trainer.check_val_every_n_epoch == 1
    for callback in callbacks:
        name, kept = type(callback).__name__, vars(callback)
        while name in found:
            name += "'"
        constructors = [vars(kind)["__init__"] for kind in type(callback).__mro__ if "__init__" in vars(kind)]
        arguments = {one for each in constructors for one in inspect.signature(each).parameters}
        values = {one: kept.get(one, kept.get(f"_{one}")) for one in arguments - _PRINTED}
        if values.get("check_on_train_epoch_end") is at_epoch_end:
            del values["check_on_train_epoch_end"]
        found[name] = _described(values)
    return found


def _described(value: Any) -> Any:
    """What tells a value from others, as JSON: a function by what it has closed over."""
    if isinstance(value, dict):
        parts = {str(name): _described(part) for name, part in value.items()}
        return {name: part for name, part in parts.items() if part is not None}
    if isinstance(value, list | tuple):
        return [_described(part) for part in value]
    if inspect.isfunction(value):
        return {"function": value.__qualname__, **_described(dict(inspect.getclosurevars(value).nonlocals))}
    if isinstance(value, bool | int | float | str):
        return value if value == value and value not in (float("inf"), float("-inf")) else str(value)
    return None
