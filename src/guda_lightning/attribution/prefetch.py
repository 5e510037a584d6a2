"""The next one is read while this one is worked with."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


def in_turn(
    keys: Sequence[_Key], read: Callable[[_Key], _Value], use: Callable[[_Key, _Value], object]
) -> Generator[_Key, None, None]:
    """Read and use one thing after another; a thread reads the next one meanwhile.

    Of what was read, one thing at most is in memory: the next is read when this one was used. Closing the
    iterator (``contextlib.closing``) ends the thread, once it has read what it is reading.

    Args:
        keys: What to read, in order.
        read: Called in the thread; what it raises is raised where that thing would be used.
        use: Called with each key and what was read of it.

    Yields:
        Each key, when what was read of it has been used.
    """
    with ThreadPoolExecutor(1, "guda-prefetch") as thread:
        reading = [thread.submit(read, key) for key in keys[:1]]
        for number, key in enumerate(keys, start=1):
            use(key, reading.pop().result())
            reading = [thread.submit(read, after) for after in keys[number : number + 1]]
            yield key
