"""How far a task is: a small file that its training writes and its driver reads."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

PROGRESS = "GUDA_PROGRESS"  # names the file, in the environment of a task


class Progress(NamedTuple):
    """How far a training is.

    Attributes:
        step: Optimizer steps done.
        total: Optimizer steps in all; None: no end is set.
    """

    step: int
    total: int | None


def write_progress(path: Path, progress: Progress) -> None:
    """Replace the file; nothing is lost where the disk forgets it, or has no room for it."""
    temporary = path.with_suffix(".progress.tmp")
    with suppress(OSError):
        temporary.write_text(json.dumps(progress))
        os.replace(temporary, path)


def read_progress(path: Path) -> Progress | None:
    """What the file says; None where training has not begun, or a network disk is replacing the file."""
    try:
        return Progress(*json.loads(path.read_text()))
    except (OSError, ValueError):
        return None
