"""Commands that a signal strikes at a chosen moment; programs of processes (see warm.py)."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any


def strike(name: str, number: int, path: str) -> None:
    """Send this process a signal just before the n-th rename to a path that contains some text.

    Writing to a temporary name and renaming is how everything here is written, so that is the worst moment.
    """
    left = number

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event == "os.rename" and path in str(arguments[1]):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.Signals[name])

    sys.addaudithook(watch)


def guda(arguments: list[str], chunk: int, *moment: Any) -> int:
    """A command that scores queries in chunks of some size, and is struck."""
    from guda_lightning.attribution import chunks
    from guda_lightning.cli.main import main

    strike(*moment)
    chunks.CHUNK_QUERIES = chunk
    return main(arguments)


def benchmark(arguments: list[str], *moment: Any) -> None:
    """Benchmarks whose time is over at a chosen moment."""
    from benchmarks.__main__ import main

    strike(*moment)
    main(arguments)


def guda_without_exchange(arguments: list[str], *moment: Any) -> int:
    """A command on a disk that cannot exchange folders, which is struck."""
    from guda_lightning.cli.main import main
    from guda_lightning.storage import replacing

    replacing._exchange = lambda first, second: False
    strike(*moment)
    return main(arguments)
