"""One command at a time makes something; of its processes, the first one sees to that."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

from guda_lightning.distributed.ranks import Ranks
from guda_lightning.storage.locks import Lock
from guda_lightning.storage.runs import RunFolder

_AT_A_TIME_SECONDS = 20.0  # collectives of ranks that wait for the first one give up after minutes

_Value = TypeVar("_Value")


@contextmanager
def locked_by(ranks: Ranks, run: RunFolder, path: Path) -> Iterator[None]:
    """Make something in a run folder alone, once whoever does so now has ended; all ranks wait together.

    Look at what is there inside of the block: another command may have made it meanwhile.

    Args:
        ranks: The processes of this command.
        run: The run folder.
        path: What in it.

    Raises:
        RankError: The first rank has failed.
    """
    lock = Lock(run.root, path)
    try:
        while not of_rank_zero(ranks, partial(lock.acquire, _AT_A_TIME_SECONDS)):
            pass
        yield
    finally:
        lock.release()


def of_rank_zero(ranks: Ranks, look: Callable[[], _Value]) -> _Value:
    """What rank zero finds, on every rank: files may differ for a moment between processes.

    Raises:
        RankError: It has failed there.
    """
    found: list[_Value] = []
    ranks.on_rank_zero(lambda: found.append(look()))
    return ranks.broadcast(found)[0]
