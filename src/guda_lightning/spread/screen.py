"""All tasks on one screen."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, redirect_stdout
from types import TracebackType

from tqdm.contrib import DummyTqdmFile

from guda_lightning.progress_bar import Bar, progress_bar
from guda_lightning.spread.base import Ended
from guda_lightning.spread.progress import read_progress
from guda_lightning.spread.task import Task

_SECONDS = 0.5  # between two looks at the files of all tasks, which may lie on a network disk


class Screen:
    """One line for all tasks and one for each that runs; on what is no terminal, messages alone.

    Files that say how far tasks are do not outlive it.

    Args:
        title: What the tasks are about.
        tasks: All of them.
    """

    def __init__(self, title: str, tasks: Sequence[Task]) -> None:
        self._title, self._tasks, self._over = title, tasks, set[Task]()
        self._file, self._others = sys.stdout, ExitStack()
        self._lines: dict[Task, Bar] = {}
        self._all = self._line(title, "done", len(tasks), position=0)

    def __enter__(self) -> Screen:
        if not self._all.disable:  # what others print, as Ray does of lost workers, goes above
            self._others.enter_context(redirect_stdout(DummyTqdmFile(self._file)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._others.close()
        for line in (*self._lines.values(), self._all):
            line.close()
        for task in self._tasks:
            task.progress.unlink(missing_ok=True)

    def watch(self, looks: Iterator[list[Ended]]) -> Iterator[list[Ended]]:
        """The same, with all lines redrawn at every look."""
        drawn = -math.inf
        for ended in looks:
            if time.monotonic() - drawn >= _SECONDS:
                drawn = time.monotonic()
                self._refresh()
            yield ended

    def end(self, task: Task, message: str) -> None:
        """A task is over: its line makes room, and a message stays above all lines."""
        self._over.add(task)
        if task in self._lines:
            self._lines.pop(task).close()
        print(message, flush=True)

    def _refresh(self) -> None:
        """Draw how far all are."""
        if self._all.disable:
            return
        done = float(len(self._over))
        for task in self._tasks:
            progress = None if task in self._over else read_progress(task.progress)
            if progress is None:
                continue
            if task not in self._lines:
                self._lines[task] = self._line(
                    f"  {task.name}", "steps", progress.total, progress.step, self._free()
                )
            done += progress.step / progress.total if progress.total else 0
            _draw(self._lines[task], progress.step)
        _draw(self._all, done)

    def _line(
        self, title: str, unit: str, total: int | None, done: int = 0, position: int | None = None
    ) -> Bar:
        return progress_bar(title, unit, total, initial=done, file=self._file, position=position)

    def _free(self) -> int:
        """The highest place below the first line that no task has."""
        taken = {abs(line.pos) for line in self._lines.values()}
        return min(set(range(1, len(taken) + 2)) - taken)


def _draw(line: Bar, value: float) -> None:
    line.n = value
    line.refresh()
