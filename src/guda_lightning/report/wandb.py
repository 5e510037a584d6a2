"""Runs of W&B: one group a run folder, one run a stage and group."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lightning.pytorch.loggers import Logger

from guda_lightning import compat

if TYPE_CHECKING:
    from lightning.pytorch.loggers import WandbLogger


def wandb_loggers(loggers: Sequence[Logger]) -> list[WandbLogger]:
    """Those loggers that are W&B's, of either of Lightning's packages."""
    return [cast("WandbLogger", logger) for logger in loggers if compat.is_lightning(logger, "WandbLogger")]


def stage_loggers(loggers: Sequence[Logger], group: str, stage: str, name: str) -> list[Logger]:
    """Fresh copies of unused loggers for one stage: in W&B one group a run folder, one run a stage and group.

    Args:
        loggers: The user's loggers, as configured.
        group: W&B group, where the user named none.
        stage: W&B job type, where the user named none.
        name: W&B run name, where the user named none.
    """
    fresh = [compat.copy_of_logger(logger) for logger in loggers]
    for logger in wandb_loggers(fresh):
        # W&B reads WANDB_RUN_GROUP once a process, and WandbLogger offers nothing after construction.
        configured = compat.wandb_arguments(logger)
        defaults = {"group": group, "job_type": stage, "name": name, "settings": _settings(logger)}
        if not isinstance(configured.get("anonymous"), str):
            configured.pop("anonymous", None)  # W&B warns of it, whatever it is
        configured.update({key: value for key, value in defaults.items() if not configured.get(key)})
    return fresh


def project_loggers(project: str, folder: Path, group: str, stage: str, name: str) -> list[Logger]:
    """The W&B logger of a command without a trainer, offline unless ``WANDB_MODE`` says otherwise.

    Args:
        project: W&B project.
        folder: Where it keeps what is logged offline.
        group: As those of ``stage_loggers``, like the others.
        stage: W&B job type.
        name: W&B run name.
    """
    from lightning.pytorch.loggers import WandbLogger

    offline = os.environ.get("WANDB_MODE", "offline") == "offline"
    logger = WandbLogger(project=project, save_dir=folder, offline=offline)
    return stage_loggers([logger], group, stage, name)


def _settings(logger: WandbLogger) -> Any:
    """Offline runs have no address to print, and a stage makes one for every group."""
    import wandb

    return wandb.Settings(silent=True) if compat.is_offline(logger) else None


@contextmanager
def closing_runs() -> Iterator[None]:
    """End the W&B run that a stage began, so that the next stage gets its own; leave a user's run open."""
    import wandb

    before = wandb.run
    try:
        yield
    finally:
        if before is None and wandb.run is not None:
            wandb.finish()


def run_in(path: Path) -> tuple[str, str, str] | None:
    """Project, entity and group of the run that W&B has logged into a file; None: it is no such file.

    The file is a log in the form of LevelDB's behind a header of 7 bytes; its second entry is the run.
    """
    from google.protobuf.message import DecodeError
    from wandb.proto import wandb_internal_pb2

    messages: Any = wandb_internal_pb2  # whose types are made at run time
    content = path.read_bytes()[:32768]  # a block: entries of the beginning are whole in it
    place = 7
    while place + 7 <= len(content):
        length = int.from_bytes(content[place + 4 : place + 6], "little")
        record = messages.Record()
        try:
            record.ParseFromString(content[place + 7 : place + 7 + length])
        except DecodeError:
            return None
        if record.HasField("run"):
            return record.run.project, record.run.entity, record.run.run_group
        place += 7 + length
    return None
