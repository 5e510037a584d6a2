"""What killed writes leave in a run folder, and how the next command puts it right."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from guda_lightning.storage.files import TEMPORARY, temporary_name, this_machine
from guda_lightning.storage.flocks import release, try_lock
from guda_lightning.storage.locks import forget_killed
from guda_lightning.storage.replacing import ASIDE, remove, settle

_OLD_SECONDS = 86_400.0
# Folders in which stages write, and levels of folders in them that are looked through, too. What is whole is
# not: a store or a set of pictures may hold millions of files.
_WRITTEN_IN = {
    **dict.fromkeys(
        ("", "store", "store/posteriors", "ensembles", "properties", "evaluation", "balanced"), 0
    ),
    **dict.fromkeys(("groups.parts", "report", "dashboard", "spread", "history", "replay", "latents"), 0),
    **dict.fromkeys(("scores", "features", "without"), 1),
    **dict.fromkeys(("checkpoints", "placebo", "curation"), 9),
}


def tidy(root: Path) -> None:
    """Put right what killed commands left in a run folder; every command that works there begins so.

    A folder that was about to be replaced gets its name back. What was half written is removed, unless a
    process may be filling it. Nothing is said where the folder cannot be written.

    Args:
        root: The run folder; need not exist.
    """
    for path in _hidden(root, ASIDE):
        settle(path, temporary_name(path))
    for path in _hidden(root, TEMPORARY):
        with suppress(OSError), _held(path) as held:
            if held and _is_from_here_or_old(path):
                if path.is_dir():
                    remove(path)
                else:
                    path.unlink()
    forget_killed(root)


def discard(folder: Path) -> None:
    """Remove the unfinished work of what is complete now, where there is any.

    It loses its name first: a kill on the way leaves no half of it that a command would go on from.
    """
    garbage = temporary_name(folder)
    with suppress(OSError):
        os.rename(folder, garbage)
        remove(garbage)


def left_by_kills(root: Path) -> list[str]:
    """What killed commands left in a run folder, and what the next one does with it; nothing is changed."""
    found = [f"{path}: moved aside by a write that was killed" for path in _hidden(root, ASIDE)]
    found = [f"{line}; the next command puts it back" for line in found]
    for path in _hidden(root, TEMPORARY):
        with suppress(OSError), _held(path) as held:
            if held and _is_from_here_or_old(path):
                found.append(f"{path}: left by a write that was killed; the next command removes it")
            elif held is not False:
                found.append(
                    f"{path}: left by a write that was killed, or still written on another machine; remove "
                    "it if no command works there"
                )
    return sorted(found)


def _hidden(root: Path, pattern: re.Pattern[str]) -> list[Path]:
    """What in the folders of a run folder, or beside it for itself, has such a name."""
    beside, own = os.listdir(root.parent) if root.parent.is_dir() else [], f".{root.name[:50]}."
    found = [root.parent / name for name in beside if name.startswith(own) and pattern.fullmatch(name)]
    for place, levels in _WRITTEN_IN.items():
        for folder, folders, names in os.walk(root / place):
            found += [Path(folder, name) for name in (*folders, *names) if pattern.fullmatch(name)]
            if len(Path(folder).relative_to(root / place).parts) == levels:
                folders.clear()
    return found


@contextmanager
def _held(path: Path) -> Iterator[bool | None]:
    """Whether nobody fills it, and nobody begins to before the block ends; None where nobody can know."""
    # NFS locks what can be written alone, and so no folder.
    writing = os.O_RDWR if path.is_file() and os.access(path, os.W_OK) else os.O_RDONLY
    descriptor = os.open(path, writing | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        yield try_lock(descriptor)
    finally:
        release(descriptor)


def _is_from_here_or_old(path: Path) -> bool:
    """Whether its lock says all: some disks hide from one machine for hours what is locked on another."""
    matched = TEMPORARY.fullmatch(path.name)
    if matched is not None and matched[1] == this_machine():
        return True
    inside: Iterable[Path] = path.iterdir() if path.is_dir() else ()
    newest = max(one.lstat().st_mtime for one in (path, *inside))
    return time.time() - newest > _OLD_SECONDS
