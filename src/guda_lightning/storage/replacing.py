"""Folders that take the place of others: at any moment, a kill leaves one of the two to be found."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

ASIDE = re.compile(r"\.(.+)\.aside")
_IN_THE_WAY = (errno.ENOTEMPTY, errno.EEXIST)  # what rename() says of a folder that has files in it
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux


def replace_folder(new: Path, path: Path, garbage: Path) -> None:
    """Give a folder a name that another folder may have, which is then gone, or has the name of the new one.

    Args:
        new: The folder, on the disk already.
        path: The name.
        garbage: A name for what is about to be removed, beside it.

    Raises:
        OSError: It cannot; what had the name still has it.
    """
    try:
        while True:
            try:
                os.rename(new, path)
                break
            except OSError as error:
                if error.errno not in _IN_THE_WAY:
                    raise
            if _exchange(new, path):
                break
            # Another process may do the same in between: then there is nothing to move, or something new.
            _discard(aside_of(path), garbage)
            with suppress(FileNotFoundError):
                os.rename(path, aside_of(path))
    except BaseException:
        adopt(path)
        raise
    fsync(path.parent)  # before what was there before is removed
    _discard(aside_of(path), garbage)


def aside_of(path: Path) -> Path:
    """The name of a folder that steps aside for another: from it, one sees whose place it was."""
    return path.with_name(f".{path.name}.aside")


def adopt(path: Path) -> None:
    """Give a folder its name back where a kill has left it aside; nothing where another has that name."""
    with suppress(OSError):
        os.rename(aside_of(path), path)


def settle(aside: Path, garbage: Path) -> None:
    """Give a folder that a kill has left aside its name back; where another has that name, remove it."""
    matched = ASIDE.fullmatch(aside.name)
    assert matched is not None
    try:
        os.rename(aside, aside.with_name(matched[1]))
    except OSError as error:
        if error.errno in _IN_THE_WAY:  # else another process has just done so
            _discard(aside, garbage)


def _discard(folder: Path, garbage: Path) -> None:
    """Remove a folder, under another name: a half of it may never be taken for the whole."""
    if folder.is_dir():
        with suppress(OSError):  # another process has just done so
            os.rename(folder, garbage)
            remove(garbage)


def remove(folder: Path) -> None:
    """Remove a folder, as far as that is possible."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except KeyboardInterrupt:  # gigabytes take a while to remove, and nobody would come back for the rest
        shutil.rmtree(folder, ignore_errors=True)
        raise


def fsync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(first: Path, second: Path) -> bool:
    """Exchange the names of two folders in one step; False where kernel, libc or file system cannot."""
    renameat2 = _renameat2()
    if renameat2 is None:
        return False
    names = os.fsencode(first), os.fsencode(second)
    return renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0


@cache
def _renameat2() -> Callable[..., int] | None:
    try:
        function = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError):
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    found: Callable[..., int] = function
    return found
