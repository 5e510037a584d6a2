"""A process that runs one task after the other: ``python -m guda_lightning.spread.worker``.

Tasks come on standard input and outcomes go to standard output, one line of JSON each. The end of standard
input is that of the driver, and of this process, whatever it is doing.
"""

from __future__ import annotations

import json
import os
import threading
from queue import SimpleQueue

from guda_lightning.spread.task import Task, run_here, watches_driver


class Worker:
    """Runs the tasks that it is given, until one leaves something behind."""

    def __init__(self) -> None:
        self._outcomes = os.dup(1)  # standard output becomes that of the tasks
        os.dup2(2, 1)
        watches_driver()
        self._tasks = SimpleQueue[Task | None]()
        self._busy = threading.Event()
        threading.Thread(target=self._receive, daemon=True).start()

    def work(self) -> None:
        """Run one task after the other."""
        while task := self._tasks.get():
            outcome = run_here(task)
            self._busy.clear()
            os.write(self._outcomes, f"{json.dumps(outcome)}\n".encode())
            if not outcome.reusable:
                return

    def _receive(self) -> None:
        with os.fdopen(0, "rb", closefd=False) as lines:
            for line in lines:
                self._busy.set()
                self._tasks.put(Task.from_json(line))
        if self._busy.is_set():
            os._exit(1)  # files are whole or absent at any moment
        self._tasks.put(None)


if __name__ == "__main__":
    Worker().work()
