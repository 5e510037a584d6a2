"""What killed writes leave in a run folder, and how the next command puts it right."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from guda_lightning.storage.files import temporary_name, this_machine
from guda_lightning.storage.flocks import release, try_lock
from guda_lightning.storage.locks import forget_killed
from guda_lightning.storage.replacing import ASIDE, remove, settle

TEMPORARY = re.compile(r"\..+\.([0-9a-f]{6})[0-9a-f]{10}\.tmp")
_ELSEWHERE_SECONDS = 86_400.0  # some disks hide from one machine what is locked on another
# Folders in which stages write, below a run folder. What they write is not looked through: it is whole.
_WRITTEN_IN = (
    *(
        "",
        "store",
        "store/posteriors",
        "scores",
        "scores/*",
        "features",
        "features/*",
        "without",
        "without/*",
    ),
    *("ensembles", "properties", "evaluation", "balanced", "groups.parts", "report", "dashboard", "spread"),
    *("checkpoints/**", "placebo/**", "curation/**"),
)


def tidy(root: Path) -> None:
    """Put right what killed commands left in a run folder; every command that works there begins so.

    A folder that was about to be replaced gets its name back. What was half written is removed, unless a
    process may be filling it. Nothing is said where the folder cannot be written.

    Args:
        root: The run folder; need not exist.
    """
    for path in asides(root):
        settle(path, temporary_name(path))
    for path in temporaries(root):
        with suppress(OSError):
            _remove_abandoned(path)
    forget_killed(root)


def asides(root: Path) -> list[Path]:
    """Folders that stepped aside for others."""
    return [path for path in _hidden(root) if ASIDE.fullmatch(path.name)]


def temporaries(root: Path) -> list[Path]:
    """Files and folders that are, or were, being written."""
    return [path for path in _hidden(root) if TEMPORARY.fullmatch(path.name)]


def _hidden(root: Path) -> Iterator[Path]:
    for place in _WRITTEN_IN:
        for folder in sorted(root.glob(place)) if place else [root]:
            with suppress(OSError):  # no folder, or gone since
                yield from (Path(one) for one in os.scandir(folder) if one.name.startswith("."))


def _remove_abandoned(path: Path) -> None:
    """Remove what nobody fills; where that is not certain, it stays."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        matched = TEMPORARY.fullmatch(path.name)
        here = matched is not None and matched[1] == this_machine()
        if (here or _untouched(path)) and try_lock(descriptor):
            if path.is_dir():
                remove(path)
            else:
                path.unlink()
    finally:
        release(descriptor)


def _untouched(path: Path) -> bool:
    """Whether nothing in it has changed for a day."""
    inside = path.iterdir() if path.is_dir() else ()
    newest = max(one.lstat().st_mtime for one in (path, *inside))
    return time.time() - newest > _ELSEWHERE_SECONDS
