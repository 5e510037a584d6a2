"""Tasks on this machine: one process each, several at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from functools import cached_property

from guda_lightning.errors import ConfigError
from guda_lightning.spread.base import LOOK_SECONDS, Ended, Spread
from guda_lightning.spread.task import ENDS_WITH_DRIVER, Task

_GRACE_SECONDS = 10.0  # for a process to notice that it has to end
_Child = subprocess.Popen[bytes]


class Processes(Spread):
    """Runs each task in a process of its own, on a GPU of its own where there are some.

    Args:
        count: How many run at a time; one per CUDA device if left out. More than there are GPUs share them.

    Raises:
        ConfigError: The count is below one.
    """

    def __init__(self, count: int | None = None) -> None:
        if count is not None and count < 1:
            raise ConfigError(
                "spread.count is out of range",
                found=count,
                expected="at least one process at a time",
                fix="pass --spread.init_args.count 1 or more, or leave it out for one per GPU",
            )
        self.count = count

    @cached_property
    def _gpus(self) -> list[str]:
        """The CUDA devices that this process sees, by the names that its children know them under."""
        import torch

        count = torch.cuda.device_count()
        named = os.environ.get("CUDA_VISIBLE_DEVICES")
        return named.split(",")[:count] if named else [str(index) for index in range(count)]

    @property
    def devices(self) -> int | None:
        """One GPU where there are some."""
        return 1 if self._gpus else None

    def room(self) -> int:
        """The count, or one per GPU.

        Raises:
            ConfigError: There is neither.
        """
        room = self.count or len(self._gpus)
        if not room:
            raise ConfigError(
                "how many processes at a time?",
                found="no CUDA device, and no spread.count",
                expected="a number of processes to share the processors",
                fix="pass --spread.init_args.count 2",
            )
        return room

    def run(self, tasks: Sequence[Task]) -> Generator[list[Ended], None, None]:
        """Run the tasks, a new one wherever one ends."""
        waiting, free = deque(tasks), deque(range(self.room()))
        running: dict[_Child, tuple[Task, int]] = {}
        try:
            while waiting or running:
                while waiting and free:
                    task, place = waiting.popleft(), free.popleft()
                    running[self._start(task, place)] = (task, place)
                over = [child for child in running if child.poll() is not None]
                ended = []
                for child in over:
                    task, place = running.pop(child)
                    _let_go([child])
                    free.append(place)
                    ended.append(Ended(task, _problem(child.returncode)))
                yield ended
                if not ended:
                    time.sleep(LOOK_SECONDS)
        finally:
            _let_go(running)

    def _start(self, task: Task, place: int) -> _Child:
        environ = {**task.environment(os.environ), ENDS_WITH_DRIVER: "1"}
        if self._gpus:
            environ["CUDA_VISIBLE_DEVICES"] = self._gpus[place % len(self._gpus)]
        environ.setdefault("OMP_NUM_THREADS", str(max(1, _processors() // self.room())))
        with task.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "guda_lightning", *task.arguments],
                stdin=subprocess.PIPE,  # closes with this process, which the task notices
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=task.cwd,
                env=environ,
                start_new_session=True,  # Ctrl-C is for this process, which then ends the others
            )


def _processors() -> int:
    """Those that this process may use; not all systems say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _let_go(children: Iterable[_Child]) -> None:
    """End children that still run, and forget them."""
    for child in children:
        if child.stdin is not None:
            child.stdin.close()
    for child in children:
        try:
            child.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _problem(code: int) -> str | None:
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}" if code else None
