"""Standard output and error of this process: closed, unread, on a full disk, or in ASCII."""

from __future__ import annotations

import os
import select
import sys
from io import TextIOWrapper
from typing import TextIO


def own_streams() -> None:
    """Make both streams take any text: closed ones drop it, letters that an encoding lacks are escaped."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # whoever started this process has closed it, as `>&-` does
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  (until the end)
        elif isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def tell(text: str) -> None:
    """Print to standard error; what a full disk does not take there is lost, and so is what stdout holds."""
    for stream, line in ((sys.stderr, f"{text}\n"), (sys.stdout, "")):
        try:
            stream.write(line)
            stream.flush()
        except BrokenPipeError:
            raise
        except OSError:
            drop(stream)  # or what it holds fails once more at the end


def unread() -> list[TextIO]:
    """The streams whose reader is gone, as that of `guda configs | head`."""
    return [stream for stream in (sys.stdout, sys.stderr) if _is_unread(stream)]


def drop(stream: TextIO) -> None:
    """Send what a stream still holds, and all that comes, to nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _is_unread(stream: TextIO) -> bool:
    poll = select.poll()
    try:
        poll.register(stream.fileno(), select.POLLOUT)
    except (OSError, ValueError):  # one of Python alone, as a notebook has
        return False
    return any(event & select.POLLERR for _, event in poll.poll(0))
