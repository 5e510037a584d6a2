"""What a command that has not ended has written: a file in RUN/history, for its successor after a kill."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from guda_lightning.storage.flocks import release, try_lock
from guda_lightning.storage.runs import RunFolder


class Begun:
    """One attempt at a command; others at the same may have been killed, or work beside it.

    Args:
        run: The run folder.
        name: What all attempts at the same command have in common.
    """

    def __init__(self, run: RunFolder, name: str) -> None:
        self._run, self._name = run, name
        self._own = run.history / f"{name}-{secrets.token_hex(5)}.begun"
        self._descriptor: int | None = None

    def wrote(self, names: Sequence[str]) -> None:
        """Keep what has become whole, by paths in the run folder, until the command ends."""
        if not names:
            return
        with suppress(OSError):  # on a full disk; what was written is whole all the same
            if self._descriptor is None:
                self._run.history.mkdir(parents=True, exist_ok=True)
                self._descriptor = os.open(self._own, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
                try_lock(self._descriptor)
            os.write(self._descriptor, "".join(f"{json.dumps(name)}\n" for name in names).encode())

    def of_killed(self) -> list[str]:
        """What earlier attempts wrote that were killed, or failed."""
        return [name for file in self._killed() for name in _names(file)]

    def close(self) -> None:
        """Leave it to a successor."""
        if self._descriptor is not None:
            release(self._descriptor)
            self._descriptor = None

    def ended(self) -> None:
        """Remove it, with those of killed attempts: all that they wrote is noted."""
        for file in (self._own, *self._killed()):
            with suppress(OSError):
                file.unlink()
        self.close()

    def _killed(self) -> Iterator[Path]:
        for file in sorted(self._run.history.glob(f"{self._name}-*.begun")):
            with suppress(OSError):  # gone since it was listed
                descriptor = os.open(file, os.O_RDWR)
                is_free = try_lock(descriptor) is not False
                release(descriptor)
                if is_free and file != self._own:
                    yield file


def _names(file: Path) -> Iterator[str]:
    for line in file.read_bytes().splitlines():
        with suppress(ValueError):  # the last line, where a kill has cut it; or a damaged one
            yield str(json.loads(line))
