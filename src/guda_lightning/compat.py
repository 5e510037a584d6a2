"""Every use of a private symbol of a library, with the version that it was seen in.

``tests/test_compat.py`` fails when one of them is gone or does something else.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import FrameType

    from lightning.pytorch import Callback, Trainer
    from lightning.pytorch.loggers import Logger, WandbLogger
    from lightning.pytorch.strategies import ModelParallelStrategy, Strategy
    from torch import nn
    from wandb_workspaces.workspaces import Workspace

# argparse of Python 3.11, which jsonargparse 4.53 builds on.


@contextmanager
def help_sections(
    parser: argparse.ArgumentParser, sections: Mapping[str, Sequence[argparse.Action]]
) -> Iterator[None]:
    """Let a parser's help show these sections, title to options; empty ones are left out."""
    kept, groups = parser._action_groups, []
    for title, members in sections.items():
        groups.append(argparse._ArgumentGroup(parser, title))
        groups[-1]._group_actions = list(members)
    parser._action_groups = groups
    try:
        yield
    finally:
        parser._action_groups = kept


def actions(group: argparse._ActionsContainer) -> list[argparse.Action]:
    """The options of an argument group, in the order of its help; the list is the group's own."""
    own: list[argparse.Action] = group._group_actions  # type: ignore[attr-defined]  # not in typeshed's base
    return own


def ungrouped(parser: argparse.ArgumentParser) -> Sequence[argparse.Action]:
    """The options of a parser that are in no group of their own, ``--help`` among them."""
    return parser._optionals._group_actions


def option_names(parser: argparse.ArgumentParser) -> list[str]:
    """All options of a parser that its help explains, such as ``--run``."""
    explained = (action for action in parser._actions if action.help != argparse.SUPPRESS)
    return [name for action in explained for name in action.option_strings if name.startswith("--")]


# jsonargparse 4.53 and pydoc of Python 3.11: the functions that import what a class path names.
_IMPORTERS = (("jsonargparse._util", "import_object"), ("pydoc", "safeimport"))


def imports_class_path() -> bool:
    """Whether the import in progress is that of a class path, in place of a statement in somebody's code."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        module, name = frame.f_globals.get("__name__", ""), frame.f_code.co_name
        if (module, name) in _IMPORTERS:
            return True
        if not (module.startswith(("importlib", "_frozen_importlib")) or module.endswith("cli.own_modules")):
            return False
        frame = frame.f_back
    return False


@contextmanager
def no_deprecations() -> Iterator[None]:
    """No warnings of what jsonargparse 5 will change: Lightning 2.6 relies on it, which no user can mend.

    They are hidden unless somebody asks for warnings, as ``PYTHONWARNINGS=error`` does.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"(?s).*(v5\.0\.0|Jsonargparse)", DeprecationWarning)
        yield


# torch 2.13.


def uncompiled(network: nn.Module) -> nn.Module:
    """The module that ``torch.compile`` has wrapped, or the network itself."""
    inner: nn.Module = getattr(network, "_orig_mod", network)
    return inner


# Lightning 2.6.6.


def is_lightning(value: object, name: str) -> bool:
    """Whether a value is of the class of this name, of either of Lightning's two packages.

    ``pytorch_lightning`` holds the same classes as ``lightning.pytorch`` a second time, and neither package's
    are instances of the other's.
    """
    packages = {"lightning", "pytorch_lightning"}
    classes = type(value).__mro__
    return any(c.__name__ == name and c.__module__.partition(".")[0] in packages for c in classes)


def callback_class() -> type[Callback]:
    """Lightning's ``Callback``, also that of ``pytorch_lightning`` where this has been imported.

    The command lines and type checks of each package take subclasses of its own class alone.
    """
    from lightning.pytorch import Callback

    other = getattr(sys.modules.get("pytorch_lightning.callbacks.callback"), "Callback", None)
    return Callback if other is None else type("Callback", (Callback, other), {})


def hands_nothing_back(strategy: Strategy) -> bool:
    """Whether a strategy spawns or forks its processes, so that what they train stays there."""
    from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher

    return isinstance(strategy.launcher, _MultiProcessingLauncher)


def set_data_parallel_size(strategy: ModelParallelStrategy, processes: int) -> None:
    """Set over how many processes a strategy shards; its constructor cannot say "all"."""
    strategy._data_parallel_size = processes


def tensor_parallel_size(strategy: ModelParallelStrategy) -> int | str:
    """Over how many processes a strategy splits layers; a number, or ``"auto"``."""
    return strategy._tensor_parallel_size


def saves_in_pieces(strategy: ModelParallelStrategy) -> bool:
    """Whether a strategy writes a checkpoint as a folder of one file per process."""
    return strategy._save_distributed_checkpoint


def trainer_of(module: object) -> Trainer | None:
    """The trainer that a module is attached to; the public attribute raises where there is none."""
    trainer: Trainer | None = getattr(module, "_trainer", None)
    return trainer


def callbacks(trainer: Trainer) -> list[Callback]:
    """All callbacks of a trainer, Lightning's own included; a connector sets an attribute without a type."""
    found: list[Callback] = vars(trainer)["callbacks"]
    return found


def is_dry_run(trainer: Trainer) -> bool:
    """Whether a trainer only tries a few batches (``fast_dev_run``); set as the callbacks are."""
    return bool(vars(trainer)["fast_dev_run"])


def complete_epoch(checkpoint: dict[str, Any]) -> None:
    """Say in a checkpoint of the end of an epoch that the epoch is over and the next one has not begun.

    Lightning writes it a moment before it counts the epoch as completed. Going on from there with
    ``max_steps`` set, it would run an empty epoch and give samplers a wrong one ever after.
    """
    loop = checkpoint["loops"]["fit_loop"]
    for counts in (loop["epoch_progress"]["current"], loop["epoch_progress"]["total"]):
        counts["completed"] = counts["processed"]
    batches = loop["epoch_loop.batch_progress"]
    batches["current"] = dict.fromkeys(batches["current"], 0)
    batches["is_last_batch"] = False


def wandb_arguments(logger: WandbLogger) -> dict[str, Any]:
    """What a logger will give to ``wandb.init``, to change before it does; nothing public can."""
    arguments: dict[str, Any] = logger._wandb_init
    return arguments


def is_offline(logger: WandbLogger) -> bool:
    """Whether a logger uploads nothing."""
    return logger._offline


def uploads_models(logger: WandbLogger) -> bool:
    """Whether a logger was asked to upload weights (``log_model``)."""
    return bool(logger._log_model)


def copy_of_logger(logger: Logger) -> Logger:
    """A copy of an unused logger; ``copy.deepcopy`` would begin a W&B run (``WandbLogger.__getstate__``)."""
    import copy

    fresh = object.__new__(type(logger))
    vars(fresh).update(copy.deepcopy(vars(logger)))
    return fresh


# wandb-workspaces 0.4.13.


def view_of(workspace: Workspace) -> Any:
    """What W&B is sent for a workspace: ``save`` offers nothing before it sends."""
    return workspace._to_model()


def take_place_of(workspace: Workspace, name: str, identity: str) -> None:
    """Let ``save`` change the workspace that W&B has given this name and identity."""
    workspace._internal_name, workspace._internal_id = name, identity


# diffusers 0.42.1.


def scheduler_config(scheduler: Any) -> dict[str, Any]:
    """The configuration of a scheduler, without the list of those values that are its class's defaults.

    With the list, ``from_config`` of another class would put its own defaults in their place. In it is also
    what a constructor has got by position (diffusers 0.42).
    """
    return {name: value for name, value in scheduler.config.items() if name != "_use_default_values"}
