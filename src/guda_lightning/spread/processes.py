"""Tasks on this machine: several workers, each of which runs one task after the other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Collection, Generator, Sequence
from contextlib import suppress
from functools import cached_property
from typing import IO

from guda_lightning.errors import ConfigError
from guda_lightning.spread.base import LOOK_SECONDS, Ended, Executor
from guda_lightning.spread.task import ENDS_WITH_DRIVER, Outcome, Task

_GRACE_SECONDS = 10.0  # for a process to notice that it has to end


class Processes(Executor):
    """Runs tasks in worker processes, each on a GPU of its own where there are some.

    A worker goes on with the next task, so that many tasks do not pay for many starts; one that fails or dies
    is replaced.

    Args:
        count: How many workers; one per CUDA device if left out. More than there are GPUs share them.

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
                "spread.count is missing",
                found="no CUDA device to run one process each",
                expected="a number of processes to share the CPU",
                fix="pass --spread.init_args.count 2",
            )
        return room

    def run(self, tasks: Sequence[Task]) -> Generator[list[Ended], None, None]:
        """Run the tasks, each in the first worker that is free."""
        waiting = deque(tasks)
        workers: list[_Worker | None] = [None] * min(self.room(), len(tasks))
        try:
            while waiting or any(worker is not None and worker.task is not None for worker in workers):
                ended = []
                for place, worker in enumerate(workers):
                    if worker is not None and worker.task is not None:
                        ended += worker.look()
                    if worker is None or not worker.usable:
                        workers[place] = worker = None
                    if waiting and (worker is None or worker.task is None):
                        task = waiting.popleft()
                        workers[place] = worker = worker or self._start(task, place)
                        worker.give(task)
                yield ended
                if not ended:
                    time.sleep(LOOK_SECONDS)
        finally:
            _let_go([worker.process for worker in workers if worker is not None])

    def _start(self, task: Task, place: int) -> _Worker:
        # Without PYTHONSAFEPATH, `-m` would take modules of the working folder for those of Python.
        environ = {**task.environment(os.environ), ENDS_WITH_DRIVER: "1", "PYTHONSAFEPATH": "1"}
        if self._gpus:
            environ["CUDA_VISIBLE_DEVICES"] = self._gpus[place % len(self._gpus)]
        environ.setdefault("OMP_NUM_THREADS", str(max(1, _processors() // self.room())))
        with task.log.open("ab") as log:  # of what it says before its first task
            return _Worker(
                subprocess.Popen(
                    [sys.executable, "-m", "guda_lightning.spread.worker"],
                    stdin=subprocess.PIPE,  # closes with this process, which the worker notices
                    stdout=subprocess.PIPE,
                    stderr=log,
                    cwd=task.cwd,
                    env=environ,
                    start_new_session=True,  # Ctrl-C is for this process, which then ends the others
                )
            )


class _Worker:
    """A process that runs one task after the other.

    Attributes:
        process: The process.
        task: What it runs.
        usable: Whether it may run another task.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process, self.usable = process, True
        self.task: Task | None = None
        self._said = b""
        os.set_blocking(self._pipe(process.stdout).fileno(), False)

    def give(self, task: Task) -> None:
        """Have it run a task; one that has died by now will be seen at the next look."""
        self.task = task
        with suppress(BrokenPipeError):
            pipe = self._pipe(self.process.stdin)
            pipe.write(f"{task.to_json()}\n".encode())
            pipe.flush()

    def look(self) -> list[Ended]:
        """What ended since the last look: its task, or nothing."""
        code = self.process.poll()  # before reading: what it said before its end is there
        self._said += self._pipe(self.process.stdout).read() or b""
        if self.task is None or (code is None and not self._said.endswith(b"\n")):
            return []
        if self._said.endswith(b"\n"):
            outcome = Outcome(*json.loads(self._said))
            self.usable, problem = outcome.reusable, _problem(outcome.code)
        else:
            self.usable, problem = False, _problem(code or 0) or "its worker ended before it did"
        task, self.task, self._said = self.task, None, b""
        if not self.usable:  # it ends by itself
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(_GRACE_SECONDS)
            _let_go([self.process])
        return [Ended(task, problem)]

    @staticmethod
    def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
        assert pipe is not None  # as it was started
        return pipe


def _processors() -> int:
    """Those that this process may use; not all systems say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _let_go(children: Collection[subprocess.Popen[bytes]]) -> None:
    """End processes that still run."""
    for child in children:
        if child.stdin is not None:
            with suppress(BrokenPipeError):  # a task that it did not live to read
                child.stdin.close()
    for child in children:
        try:
            child.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        if child.stdout is not None:
            child.stdout.close()


def _problem(code: int) -> str | None:
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}" if code else None
