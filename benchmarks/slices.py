"""Work in slices of a few minutes, for machines that lend no more at a time."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

OVER = 75  # exit status of a slice that was over first, EX_TEMPFAIL
_AGAIN = 20.0  # seconds until the next interrupt, should a library have swallowed one


@contextmanager
def slice_of(minutes: float | None) -> Iterator[None]:
    """Interrupt the block after some minutes, as Ctrl-C does: every stage goes on from what it has kept.

    Args:
        minutes: How many; None: as long as it takes.

    Raises:
        SystemExit: They were over first; the status is ``OVER``.
    """
    if minutes is None:
        yield
        return
    over = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal over
        if _in_finaliser(frame):  # Python would swallow what is raised there
            signal.setitimer(signal.ITIMER_REAL, 0.05, _AGAIN)
            return
        over = True
        raise KeyboardInterrupt

    begun, ctrl_c = time.monotonic(), signal.getsignal(signal.SIGINT)
    before = signal.signal(signal.SIGALRM, interrupt)
    left, interval = signal.setitimer(signal.ITIMER_REAL, 60 * minutes, _AGAIN)
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as end:
        if not over:
            raise
        print("slice over, run the same command again", flush=True)
        raise SystemExit(OVER) from end
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.signal(signal.SIGINT, ctrl_c)  # which Lightning ignores once it was interrupted
        if left:  # somebody else's alarm
            signal.setitimer(signal.ITIMER_REAL, max(0.001, left - (time.monotonic() - begun)), interval)


def _in_finaliser(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False
