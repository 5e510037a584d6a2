"""Who works on what in a run folder: one command at a time writes something, and the next one waits for it.

The lock on ``full``, ``store/KEY`` or a score table is a file in ``RUN/.locks`` that its owner has locked, by
the kernel: a kill releases it. What stands in the file is for those who wait. It is gone when its owner ends.
"""

from __future__ import annotations

import getpass
import json
import math
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

from guda_lightning.storage.files import unique_slug
from guda_lightning.storage.flocks import names, release, try_lock

FOLDER = ".locks"
_POLL_SECONDS = 0.5
_SAID_EVERY_SECONDS = 300.0
_LONGEST = 200  # characters of a command in a message


@dataclass(frozen=True)
class Owner:
    """Who works on something.

    Attributes:
        path: On what, inside of the run folder.
        command: The command.
        user: Who has started it.
        pid: Its process.
        host: On which machine.
        since: Since when.
    """

    path: str
    command: str
    user: str
    pid: int
    host: str
    since: str

    @classmethod
    def this_process(cls, path: str) -> Owner:
        """Who begins now."""
        now = datetime.now(timezone.utc).astimezone().isoformat(sep=" ", timespec="seconds")
        return cls(path, _command(), _user(), os.getpid(), platform.node(), now)

    @classmethod
    def read(cls, file: Path) -> Owner | None:
        """What stands in the file of a lock; None where it is just being written, or gone."""
        try:
            return cls(**json.loads(file.read_text("utf-8")))
        except (OSError, TypeError, ValueError):
            return None

    def __str__(self) -> str:
        text = f"since {self.since}: {self.command} (process {self.pid} of {self.user} on {self.host})"
        return "".join(one if one.isprintable() else "?" for one in text)  # whoever has written the file


@dataclass
class Lock:
    """The lock on one thing in a run folder.

    Attributes:
        root: The run folder.
        path: What in it.
    """

    root: Path
    path: Path
    _descriptor: int | None = None
    _failures: int = 0
    _said: float = -math.inf

    @property
    def file(self) -> Path:
        """The file that is locked."""
        return self.root / FOLDER / f"{unique_slug(self._name)}.lock"

    @property
    def _name(self) -> str:
        return self.path.relative_to(self.root).as_posix()

    def acquire(self, seconds: float = math.inf) -> bool:
        """Take the lock, waiting for whoever has it, which is said.

        Where there can be no locks, that is said instead, and the lock counts as taken.

        Args:
            seconds: How long to wait.

        Returns:
            Whether it is taken.
        """
        end = time.monotonic() + seconds
        while not self._taken():
            self._failures += 1
            if self._failures > 1:  # else perhaps somebody has only had a look
                self._say_who()
            if time.monotonic() >= end:
                return False
            time.sleep(_POLL_SECONDS)
        return True

    def release(self) -> None:
        """Leave it to others, and no trace."""
        if self._descriptor is not None:
            with suppress(OSError):
                self.file.unlink()
            release(self._descriptor)
            self._descriptor = None
        with suppress(OSError):
            self.file.parent.rmdir()

    def _taken(self) -> bool:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):  # pathlib's exist_ok fails where it goes in between
                self.file.parent.mkdir()
            descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and not self.file.parent.is_symlink():
                return False  # who had another lock has just removed the folder
            return self._without(error.strerror)
        taken = try_lock(descriptor)
        if taken and names(descriptor, self.file):
            owner = json.dumps(asdict(Owner.this_process(self._name)), ensure_ascii=False)
            with suppress(OSError):  # a full disk: it is locked all the same
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, owner.encode(errors="replace"), 0)
                os.fsync(descriptor)  # for other machines
            self._descriptor = descriptor
            return True
        release(descriptor)
        if taken is None:
            with suppress(OSError):
                self.file.unlink()
            return self._without("this disk has no locks")
        return False

    def _without(self, reason: str | None) -> bool:
        print(
            f"{self.path}: cannot be locked ({reason}); do not run two commands on {self.root} at once",
            flush=True,
        )
        return True

    def _say_who(self) -> None:
        if time.monotonic() - self._said >= _SAID_EVERY_SECONDS:
            owner = Owner.read(self.file)
            who = "" if owner is None else f" {owner}"
            print(f"{self.path}: another command works on it{who}; waiting for it", flush=True)
            self._said = time.monotonic()


@contextmanager
def locked(root: Path, path: Path) -> Iterator[None]:
    """Work on something in a run folder alone, once whoever does so now has ended.

    Look at what is there inside of the block: another command may have made it meanwhile.

    Args:
        root: The run folder.
        path: What in it.
    """
    lock = Lock(root, path)
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


def at_work(root: Path) -> list[Owner]:
    """Who works in a run folder."""
    found = []
    for file in _files(root):
        with suppress(OSError):  # it has ended since
            # NFS locks what can be written alone.
            writing = os.O_RDWR if os.access(file, os.W_OK) else os.O_RDONLY
            descriptor = os.open(file, writing | os.O_NONBLOCK)
            held = try_lock(descriptor) is False
            release(descriptor)
            owner = Owner.read(file) if held else None
            if owner is not None:
                found.append(owner)
    return found


def forget_killed(root: Path) -> None:
    """Remove the files of locks whose owners were killed."""
    for file in _files(root):
        with suppress(OSError):
            descriptor = os.open(file, os.O_RDWR)
            try:
                if try_lock(descriptor) and names(descriptor, file):
                    file.unlink()
            finally:
                release(descriptor)
    with suppress(OSError):
        (root / FOLDER).rmdir()


def _files(root: Path) -> list[Path]:
    folder = root / FOLDER
    try:
        return [folder / name for name in sorted(os.listdir(folder)) if name.endswith(".lock")]
    except OSError:  # nobody works there
        return []


def _command() -> str:
    program, *arguments = sys.argv or ["python"]
    name = "guda" if Path(program).name == "__main__.py" else Path(program).name
    text = " ".join(shlex.join([name, *arguments]).split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _user() -> str:
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):  # a container may give a number alone
        return str(os.getuid())
