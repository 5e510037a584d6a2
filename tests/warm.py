"""Processes that start in milliseconds: forked from one that has imported everything and run nothing."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn


@dataclass(frozen=True)
class Process:
    """A process that runs a function.

    Attributes:
        pid: Its id.
        log: The file that holds what it printed.
    """

    pid: int
    log: Path
    _server: Connection

    def poll(self) -> int | None:
        """Its exit status, as ``os.waitstatus_to_exitcode`` gives it; None while it runs."""
        return self._ended(os.WNOHANG)

    def wait(self) -> int:
        """Its exit status, once it has ended."""
        status = self._ended(0)
        assert status is not None
        return status

    def until(self, line: str) -> None:
        """Wait until it has printed a line."""
        while line not in self.log.read_text().splitlines():
            assert self.poll() is None, self.log.read_text()
            time.sleep(0.005)

    def until_matched(self, pattern: str) -> None:
        """Wait until it has printed a line that matches a pattern."""
        while not any(re.fullmatch(pattern, line) for line in self.log.read_text().splitlines()):
            assert self.poll() is None, self.log.read_text()
            time.sleep(0.005)

    def _ended(self, options: int) -> int | None:
        self._server.send((self.pid, options))
        status: int | None = self._server.recv()
        return status


class Server:
    """Forks processes on request; to be made before this process has trained anything or started threads."""

    def __init__(self) -> None:
        self._here, there = Pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of xdist's thread, which waits for messages
            pid = os.fork()
        if pid == 0:
            self._here.close()
            _serve(there)
        self._pid = pid
        there.close()

    def close(self) -> None:
        """End; the time that its processes took counts as this one's then."""
        self._here.close()
        os.waitpid(self._pid, 0)

    @contextmanager
    def process(
        self, log: Path, run: Callable[..., int | None], *arguments: object, **environment: str
    ) -> Iterator[Process]:
        """A process that calls a function of a module and ends with what it returns; killed if it is left."""
        log.write_bytes(b"")
        self._here.send((log, run, arguments, environment))
        process = Process(self._here.recv(), log, self._here)
        try:
            yield process
        finally:
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()


def ranks(server: Server, logs: Path, run: Callable[..., None], *arguments: object) -> list[tuple[int, str]]:
    """Run a function in two processes that know of each other; how each ended and what it printed."""
    with socket.create_server(("localhost", 0)) as free:
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": "2", "NODE_RANK": "0"}
    with ExitStack() as stack:
        started = [
            stack.enter_context(
                server.process(logs / f"{rank}.log", run, *arguments, **shared, LOCAL_RANK=str(rank))
            )
            for rank in (0, 1)
        ]
        return [(process.wait(), process.log.read_text()) for process in started]


def _serve(client: Connection) -> NoReturn:
    ended: dict[int, int] = {}
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C of the terminal: pytest ends, and this with it
    while True:
        try:
            request = client.recv()
        except EOFError:
            os._exit(0)
        if len(request) > 2:
            pid = os.fork()
            if pid == 0:
                client.close()
                _run(*request)
            client.send(pid)
            continue
        pid, options = request
        if pid not in ended:
            found, status = os.waitpid(pid, options)
            if found:
                ended[pid] = os.waitstatus_to_exitcode(status)
        client.send(ended.get(pid))


def _run(
    log: Path, run: Callable[..., int | None], arguments: tuple[Any, ...], environment: Mapping[str, str]
) -> NoReturn:
    """Call a function as the program of a process of its own."""
    status: object = 1
    try:
        with log.open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.stdout = sys.__stdout__ = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
        sys.stderr = sys.__stderr__ = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
        warnings.resetwarnings()
        warnings.simplefilter("ignore")
        # A shell's background job inherits that Ctrl-C is ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ.update(environment)
        status = run(*arguments)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status if isinstance(status, int) else 0 if status is None else 1)
