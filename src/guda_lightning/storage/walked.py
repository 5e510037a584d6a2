"""The files of a run folder, found by walking it, so that a new kind of file is among them by itself."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from guda_lightning.storage.runs import RunFolder

State = tuple[int, int, int]  # when it was written, its size, and which file it is on its disk


def walked(run: RunFolder) -> dict[str, Path]:
    """Every file of a run folder by its path in it, with ``/``, sorted; links are followed.

    Left out is what is no result: temporary files, locks, the stamp of ``guda fit``, and what is no regular
    file.
    """
    return {name: run.root / name for name in states(run)}


def states(run: RunFolder) -> dict[str, State]:
    """What tells whether a file was written since, by its path in the run folder; no file is read."""
    found = ((name, (stat.st_mtime_ns, stat.st_size, stat.st_ino)) for name, stat in _files(run))
    return dict(sorted(found))


def _files(run: RunFolder) -> Iterator[tuple[str, os.stat_result]]:
    # Texts instead of paths: every command asks twice, and there may be tens of thousands.
    seen, folders, stamp = set[tuple[int, int]](), deque([""]), run.fit_stamp.name
    while folders:
        inside = folders.pop()
        path = f"{run.root}/{inside}"
        with suppress(OSError), os.scandir(path) as entries:  # another command may have replaced it just now
            stat = os.stat(path)
            if (stat.st_dev, stat.st_ino) in seen:  # by a link
                continue
            seen.add((stat.st_dev, stat.st_ino))
            for entry in entries:
                name = f"{inside}{entry.name}"
                with suppress(OSError):
                    if _is_working(entry.name) or name == stamp:
                        continue
                    if entry.is_dir():  # those that are linked to last: what is there has its own name
                        (folders.appendleft if entry.is_symlink() else folders.append)(f"{name}/")
                    elif entry.is_file():
                        yield name, entry.stat()


def _is_working(name: str) -> bool:
    return name == ".locks" or name.endswith(".tmp")
