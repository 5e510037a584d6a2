"""The files of a run folder, found by walking it, so that a new kind of file is among them by itself."""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from guda_lightning.errors import StoreError
from guda_lightning.storage.files import TEMPORARY
from guda_lightning.storage.runs import FOLDERS, RunFolder

# What the system says of a name that another command has just removed or replaced, and of a link to nothing.
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.ELOOP)


def walked(run: RunFolder) -> dict[str, Path]:
    """Every file of a run folder by its path in it, with ``/``, sorted.

    Left out is what is no result: temporary files, locks, the stamp of ``guda fit``, what is no regular file,
    and what ``left_out`` names.

    Raises:
        StoreError: A folder in it cannot be read.
    """
    return {name: run.root / name for name in sorted(names_in(run))}


def names_in(run: RunFolder) -> Iterator[str]:
    """The names of ``walked``, as they are found; raises as it does."""
    return (name for name, is_file in _entries(run) if is_file)


def left_out(run: RunFolder) -> list[str]:
    """Links to folders that are not followed: those outside of the folders in which commands write.

    A store on another disk is a result of the run; a million training images that somebody has linked into
    its folder are none.

    Raises:
        StoreError: A folder in it cannot be read.
    """
    return sorted(name for name, is_file in _entries(run) if not is_file)


def _entries(run: RunFolder) -> Iterator[tuple[str, bool]]:
    """Files by their path in the run folder, with True, and links that are not followed, with False."""
    # Texts instead of paths: there may be tens of thousands.
    seen, folders, stamp = set[tuple[int, int]](), deque([""]), run.fit_stamp.name
    while folders:
        inside = folders.pop()
        path = f"{run.root}/{inside}"
        try:
            stat = os.stat(path)
            if (stat.st_dev, stat.st_ino) in seen:  # by a link
                continue
            seen.add((stat.st_dev, stat.st_ino))
            with os.scandir(path) as found:
                entries = list(found)
        except OSError as error:
            _refuse_unreadable(path, error)
            continue
        for entry in entries:
            name = f"{inside}{entry.name}"
            if is_working(entry.name) or name == stamp:
                continue
            try:
                is_folder, is_file = entry.is_dir(), entry.is_file()
            except OSError as error:
                _refuse_unreadable(entry.path, error)
                continue
            if is_file:
                yield name, True
            elif is_folder and not entry.is_symlink():
                folders.append(f"{name}/")
            elif is_folder and name.partition("/")[0] in FOLDERS:
                folders.appendleft(f"{name}/")  # last: what is there has its own name
            elif is_folder:
                yield name, False


def _refuse_unreadable(path: str, error: OSError) -> None:
    """Refuse what cannot be read; what is gone is no file of the run."""
    if error.errno not in _GONE:
        raise StoreError(
            f"{path.rstrip('/')} cannot be read",
            found=error.strerror,
            expected="a run folder of which every file can be listed",
            fix="give yourself the right to read it, or move it out of the run folder",
        ) from error


def is_working(name: str) -> bool:
    """Whether a name is that of a temporary file or folder, or of that of the locks."""
    return name == ".locks" or TEMPORARY.fullmatch(name) is not None
