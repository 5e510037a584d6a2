"""The files of a run folder, found by walking it, so that a new kind of file is among them by itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from guda_lightning.storage.runs import RunFolder

State = tuple[int, int, int]  # when it was written, its size, and which file it is on its disk


def walked(run: RunFolder) -> dict[str, Path]:
    """Every file of a run folder by its path in it, with ``/``, sorted; links are followed.

    Left out is what is no result: temporary files, locks, the stamp of ``guda fit``, and what is no regular
    file.
    """
    return dict(sorted((path.relative_to(run.root).as_posix(), path) for path in _files(run)))


def states(run: RunFolder) -> dict[str, State]:
    """What tells whether a file was written since, by its path in the run folder; no file is read."""
    found = {}
    for name, path in walked(run).items():
        try:
            stat = path.stat()
        except FileNotFoundError:  # another command has replaced it just now
            continue
        found[name] = stat.st_mtime_ns, stat.st_size, stat.st_ino
    return found


def _files(run: RunFolder) -> Iterator[Path]:
    seen = set()
    for base, folders, names in os.walk(run.root, followlinks=True):
        try:
            stat = os.stat(base)
        except FileNotFoundError:  # another command has replaced it just now
            continue
        if (stat.st_dev, stat.st_ino) in seen:  # by a link to a folder above
            folders.clear()
            continue
        seen.add((stat.st_dev, stat.st_ino))
        folders[:] = [name for name in folders if not _is_working(name)]
        paths = [Path(base, name) for name in names if not _is_working(name)]
        yield from (path for path in paths if path != run.fit_stamp and path.is_file())


def _is_working(name: str) -> bool:
    return name == ".locks" or name.endswith(".tmp")
