"""Folders and files that a command would replace, and that it did not write: they are the user's."""

from __future__ import annotations

from pathlib import Path

from guda_lightning.errors import StoreError
from guda_lightning.storage.weights_record import RECORD


def refuse_foreign(folder: Path, command: str, otherwise: str | None = None, mark: str = RECORD) -> None:
    """Refuse to replace a folder that was not written by the command that is about to.

    Args:
        folder: The folder; need not exist.
        command: What writes it.
        otherwise: What else mends it than to move it away.
        mark: What the command leaves in it, a pattern of names.

    Raises:
        StoreError: It holds files, and none that the command leaves.
    """
    if not folder.is_dir() or any(folder.glob(mark)):
        return
    names = sorted(path.name for path in folder.iterdir())
    if names:
        raise StoreError(
            f"{folder} was not written by {command}, which would replace it",
            found=f"a folder without {mark}, with {', '.join(names[:3])}{', …' * (len(names) > 3)}",
            expected=f"no such folder, an empty one, or what {command} wrote",
            fix="move it away" if otherwise is None else f"move it away, or {otherwise}",
        )


def refuse_foreign_file(path: Path, command: str, mark: str) -> None:
    """Refuse to replace a file that was not written by the command that is about to.

    Args:
        path: The file; need not exist.
        command: What writes it.
        mark: What the command writes into it.

    Raises:
        StoreError: It has something else in it, or is a folder or a device.
    """
    if path.exists() and not (path.is_dir() or path.is_file()):  # /dev/null would be a file from then on
        raise StoreError(
            f"{path} was not written by {command}, which would replace it",
            found="a pipe, a socket or a device",
            expected=f"no such file, or what {command} wrote",
            fix="name a file",
        )
    if path.is_dir() or (path.is_file() and mark.encode() not in path.read_bytes()):
        raise StoreError(
            f"{path} was not written by {command}, which would replace it",
            found="a folder" if path.is_dir() else f"a file without {mark}",
            expected=f"no such file, or what {command} wrote",
            fix="move it away",
        )
