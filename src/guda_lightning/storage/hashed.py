"""Hashes of files; a process reads a large one once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from guda_lightning.storage.files import sha256_file

MISSING = "no such file"
SETTLED = 2.0  # seconds: what has changed since may change again within one tick of the disk's clock
_LARGE = 1 << 20  # bytes: a smaller file is hashed again as fast as looked up
_THREADS = 8
_Found = TypeVar("_Found")
_known: dict[tuple[str, str], tuple[tuple[int, ...], object]] = {}  # what was found of large files


def hashes(folder: Path, names: Sequence[str]) -> list[str]:
    """The hashes of files, several at a time; a word for one that is missing."""
    with ThreadPoolExecutor(min(_THREADS, len(names) or 1)) as pool:
        return list(pool.map(lambda name: hash_of(folder / name), names))


def hash_of(path: Path) -> str:
    """The hash of a file, a large one of which a process reads once; a word where it is missing."""
    try:
        return once(path, sha256_file) if path.is_file() else MISSING
    except FileNotFoundError:
        return MISSING


def once(path: Path, hashed: Callable[[Path], _Found]) -> _Found:
    """What a function finds of a file; of a large one that has not changed, what it found before.

    Args:
        path: The file.
        hashed: The function, which reads all of it.

    Raises:
        FileNotFoundError: There is none.
    """
    stat = path.stat()
    if stat.st_size < _LARGE:
        return hashed(path)
    key = (str(path.resolve()), hashed.__name__)
    state = (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
    if key in _known and _known[key][0] == state:
        known: _Found = _known[key][1]  # type: ignore[assignment]  # of this function
        return known
    found = hashed(path)
    if time.time() - max(stat.st_mtime, stat.st_ctime) > SETTLED:
        _known[key] = state, found
    return found
