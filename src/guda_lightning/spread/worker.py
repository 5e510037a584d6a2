"""A process that runs one task after the other: ``python -m guda_lightning.spread.worker``.

Tasks come on standard input and outcomes go to standard output, one line of JSON each. The end of standard
input is that of the driver, and of this process, at any moment.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue

from guda_lightning.spread.task import Outcome, Task, run_here, watches_driver


def encode(task: Task) -> bytes:
    """A task as one line."""
    return json.dumps(asdict(task), default=str).encode() + b"\n"


def decode(line: bytes) -> Task:
    """The task of a line."""
    fields = json.loads(line)
    paths = {name: Path(fields.pop(name)) for name in ("config", "log", "cwd")}
    return Task(options=tuple(fields.pop("options")), **fields, **paths)


def decode_outcome(line: bytes) -> Outcome:
    """How a task ended."""
    return Outcome(*json.loads(line))


def _receive(tasks: SimpleQueue[Task]) -> None:
    with os.fdopen(0, "rb", closefd=False) as lines:
        for line in lines:
            tasks.put(decode(line))
    os._exit(1)  # files are whole or absent at any moment


def _work() -> None:
    outcomes = os.dup(1)  # standard output becomes that of the tasks
    os.dup2(2, 1)
    watches_driver()
    tasks = SimpleQueue[Task]()
    threading.Thread(target=_receive, args=(tasks,), daemon=True).start()
    reusable = True
    while reusable:
        outcome = run_here(tasks.get())
        os.write(outcomes, json.dumps(outcome).encode() + b"\n")
        reusable = outcome.reusable


if __name__ == "__main__":
    _work()
    sys.exit()
