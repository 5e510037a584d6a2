"""A callback that writes down every step of every process, and stops at one until somebody lets it go on.

Tests copy this file into the folder that guda is started in, where tasks find it.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

DIARY, GO = Path("diary.txt"), Path("go")
STOPS_AT = 5  # in the second epoch of three steps


class Diary(Callback):
    """Appends ``GROUP STEP PID`` after every step, and ``GROUP end PID``.

    Args:
        stops: The groups that wait at ``STOPS_AT`` until the file ``go`` exists, 60 s at most.
    """

    def __init__(self, stops: str) -> None:
        self.stops = stops.split(",")

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Write and, at one step, wait."""
        module: Any = pl_module
        (group,) = module.groups
        _write(group, trainer.global_step)
        end = time.monotonic() + 60
        while group in self.stops and trainer.global_step == STOPS_AT and not GO.exists():
            if time.monotonic() > end:
                raise TimeoutError(GO)
            time.sleep(0.02)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The training came to its end."""
        module: Any = pl_module
        _write(module.groups[0], "end")


def _write(group: str, what: object) -> None:
    with DIARY.open("a") as file:  # a line is one write, which other processes do not cut
        file.write(f"{group} {what} {os.getpid()}\n")
