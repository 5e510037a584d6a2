"""What a command writes: files and folders say so when they are whole, whoever else works beside it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_listening: list[Callable[[Sequence[str]], None]] = []


def wrote(*paths: Path) -> None:
    """Say that files, or folders with all that is in them, have become whole.

    ``atomic_file`` and ``atomic_folder`` say it in their own process; whoever has other processes write says
    it for them.
    """
    whole = [os.path.abspath(path) for path in paths]
    for hear in _listening:
        hear(whole)


@contextmanager
def listening(tell: Callable[[Sequence[str]], None] = lambda paths: None) -> Iterator[Iterable[str]]:
    """What becomes whole in the block: absolute paths, in order; some may be gone again.

    Args:
        tell: Is told at once.
    """
    heard: dict[str, None] = {}

    def hear(paths: Sequence[str]) -> None:
        heard.update(dict.fromkeys(paths))
        tell(paths)

    _listening.append(hear)
    try:
        yield heard
    finally:
        _listening.remove(hear)


def files_below(root: Path, paths: Iterable[str]) -> list[str]:
    """The files of a folder that are, or lie in, one of these paths, by their paths in it with ``/``, sorted.

    Args:
        root: The folder.
        paths: Absolute ones.
    """
    top, found = os.path.abspath(root), set[str]()
    for path in paths:
        if path != top and not path.startswith(f"{top}/"):
            continue
        if os.path.isdir(path):
            found |= {os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names}
        else:
            found.add(path)
    return sorted(os.path.relpath(file, top) for file in found if os.path.isfile(file))
