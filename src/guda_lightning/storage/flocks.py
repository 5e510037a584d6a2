"""Locks of the kernel on open files: it releases them when their process ends, however it does."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path


def try_lock(descriptor: int) -> bool | None:
    """Lock an open file or folder; False where another process holds it, None where nobody can know."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # some network file systems have no locks, or none on folders
        return False if error.errno == errno.ESTALE else None  # whoever held it has removed the file
    return True


def release(descriptor: int) -> None:
    """Release a lock, also where a forked child has the file open still, and close the file."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    except OSError:  # there was none
        pass
    finally:
        os.close(descriptor)


def names(descriptor: int, path: Path) -> bool:
    """Whether an open file still has a name: who held its lock before may have removed it."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False
