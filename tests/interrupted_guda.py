"""Runs guda in forked children that a signal hits at a chosen moment; one import of torch serves all of them.

Reads one JSON object a line from standard input: ``arguments`` of guda, the ``signal`` to send, and the
moment: just before the ``number``-th time that something is renamed to a path that contains ``path``. Queries
are scored in chunks of ``chunk``. Writing
to a temporary name and renaming is how everything here is written, so that is the worst moment. What guda
prints goes to ``log``. Answers with one line: the exit status as ``os.waitstatus_to_exitcode`` gives it.
"""

import json
import os
import signal
import sys
from typing import Any

import torch

import guda_lightning.cli.lightning  # noqa: F401  (the import that takes long)
from guda_lightning.attribution import chunks
from guda_lightning.cli.main import main

torch.set_num_threads(1)
# A shell's background job inherits that Ctrl-C is ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)


def child(job: dict[str, Any]) -> int:
    left = job["number"]

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event == "os.rename" and job["path"] in str(arguments[1]):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.Signals[job["signal"]])

    with open(job["log"], "w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    sys.addaudithook(watch)
    chunks.CHUNK_QUERIES = job["chunk"]
    return main(job["arguments"])


for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        os._exit(child(json.loads(line)))
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
