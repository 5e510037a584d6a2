"""What the harness runs in processes of their own (see warm.py)."""

from __future__ import annotations

import itertools
import json
import os
import pkgutil
import signal
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import diffusers
from PIL import Image

from guda_lightning import cli
from guda_lightning.attribution import chunks
from guda_lightning.cli.commands import COMMANDS, Stage
from guda_lightning.cli.main import main
from guda_lightning.diffusion import cost

HANG = 600  # seconds, of commands that take one or two
CHUNK = 2  # queries that are scored at a time, so that five of them come in parts
LAZY = (
    "altair",
    "jinja2",
    "omegaconf",
    "peft",
    "scipy.io",
    "sklearn.datasets",
    "torchsde",
    "vl_convert",
    "wandb",
    "datasets",
    "pyarrow.dataset",
)
LAZY += ("guda_lightning.report.run", "jsonargparse", "torch._dynamo", "torch.distributed.fsdp")
RENAME = "os.rename"  # also of os.replace, and tried before two folders are exchanged


def guda(arguments: list[str]) -> int:
    """``guda`` as users call it, but for scoring in small chunks; what hangs ends by its alarm."""
    signal.alarm(HANG)
    chunks.CHUNK_QUERIES = CHUNK
    return main(arguments)


def counted(arguments: list[str], result: Path) -> int:
    """``guda``, and how many audit events and renames it took."""
    counts = {"event": 0, "rename": 0}

    def count(event: str) -> None:
        counts["event"] += 1
        counts["rename"] += event == RENAME

    _watch(count)
    code = guda(arguments)
    result.write_text(json.dumps(counts))
    return code


def killed(arguments: list[str], kind: str, number: int) -> int:
    """``guda`` that is killed at the n-th audit event, or just ``before`` or ``after`` the n-th rename."""
    left, due = number, False

    def strike(event: str) -> None:
        nonlocal left, due
        if due:
            due = False  # the kill is an event, too
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "event" or event == RENAME:
            left -= 1
            due = left == 0
            if due and kind != "after":
                strike(event)

    _watch(strike)
    return guda(arguments)


def backwards(arguments: list[str]) -> int:
    """``guda`` beneath a clock that was set back by a day, and is set back further whenever it is read."""
    now, read = time.time, itertools.count()
    time.time = lambda: now() - 86400 - 10 * next(read)
    time.time_ns = lambda: int(time.time() * 1e9)
    return guda(arguments)


def _watch(see: Callable[[str], None]) -> None:
    """Audit events are a clock of work: unlike seconds, they say where a process is on any machine."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        see(event)

    sys.addaudithook(hook)


def import_everything() -> None:
    """What a command imports before it works, so that a process forked from this one begins with the work."""
    for module in pkgutil.iter_modules(cli.__path__, f"{cli.__name__}."):
        import_module(module.name)
    for command in COMMANDS:
        if isinstance(command, Stage):
            command.load()
    for name in LAZY:
        import_module(name)
    Image.init()
    _ = diffusers.UNet2DModel, diffusers.DDPMScheduler, diffusers.DDPMPipeline  # imported when named
    cost._MANY = cost._FEW  # every stage says what it will cost: how near that comes, benchmarks say
