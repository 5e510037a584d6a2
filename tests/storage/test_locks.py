"""Locks on what a command makes: held while it works, never after its end, with a message that says all."""

from __future__ import annotations

import errno
import fcntl
import getpass
import json
import os
import platform
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from guda_lightning.cli.main import main
from guda_lightning.storage import locks
from guda_lightning.storage.leftovers import tidy
from guda_lightning.storage.locks import Lock, at_work, locked
from guda_lightning.storage.run_state import run_state
from guda_lightning.storage.runs import RunFolder

HOLD = """
import sys, time
from pathlib import Path
from guda_lightning.storage.locks import locked
run = Path(sys.argv[1])
with locked(run, run / "scores" / "guided-0.parquet"):
    print("ready", flush=True)
    time.sleep(3600)  # until it is killed
"""
# Counts up in a file, as no two processes could at the same time.
COUNT = """
import sys
from pathlib import Path
from guda_lightning.storage.locks import locked
run = Path(sys.argv[1])
for _ in range(25):
    with locked(run, run / "number"):
        number = int((run / "number").read_text())
        (run / "number").write_text("")
        (run / "number").write_text(str(number + 1))
"""


@contextmanager
def holding(run: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that works on a score table."""
    program = [sys.executable, "-c", HOLD, str(run)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def said_by(pid: int) -> str:
    """A pattern of what is said of another process."""
    return (
        r"since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d: -c \S+ "
        rf"\(process {pid} of {re.escape(getpass.getuser())} on {re.escape(platform.node())}\)"
    )


def test_the_second_waits_says_for_whom_and_goes_on_after_a_kill(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "scores" / "guided-0.parquet"
    lock = Lock(tmp_path, path)
    with holding(tmp_path) as process:
        assert not lock.acquire(0)
        assert capsys.readouterr().out == ""  # perhaps somebody has only had a look
        assert not lock.acquire(0.1)
        assert not lock.acquire(0.1)
        message = (
            f"{re.escape(str(path))}: another command works on it {said_by(process.pid)}; waiting for it\n"
        )
        assert re.fullmatch(message, capsys.readouterr().out)  # once
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert lock.acquire(0)
    assert capsys.readouterr().out == ""
    assert [owner.pid for owner in at_work(tmp_path)] == [os.getpid()]
    lock.release()
    assert os.listdir(tmp_path) == []


def test_who_waits_says_so_again_after_minutes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "_SAID_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(locks, "_POLL_SECONDS", 0.0)
    held, waits = Lock(tmp_path, tmp_path / "full"), Lock(tmp_path, tmp_path / "full")
    assert held.acquire()
    assert not waits.acquire(0.05)
    assert capsys.readouterr().out.count("; waiting for it\n") > 1
    held.release()


def test_the_command_of_guda_is_named_as_it_is_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/x/guda_lightning/__main__.py", "fit", "-c", "my file\n.yaml"])
    with locked(tmp_path, tmp_path / "full"):
        (owner,) = at_work(tmp_path)
    assert (owner.path, owner.command) == ("full", "guda fit -c 'my file .yaml'")
    monkeypatch.setattr(sys, "argv", ["/usr/bin/guda", "fit", "-c", "x" * 300])
    with locked(tmp_path, tmp_path / "full"):
        (owner,) = at_work(tmp_path)
    assert owner.command == f"guda fit -c {'x' * 187}…"


def test_a_user_without_a_name_is_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr(getpass, "getuser", nobody)
    with locked(tmp_path, tmp_path / "full"):
        assert [owner.user for owner in at_work(tmp_path)] == [str(os.getuid())]


def test_what_others_wrote_into_the_file_moves_no_cursor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held, waits = Lock(tmp_path, tmp_path / "full"), Lock(tmp_path, tmp_path / "full")
    assert held.acquire()
    owner = json.loads(held.file.read_text())
    held.file.write_text(json.dumps({**owner, "command": "guda \x1b[2J\u202e"}))
    assert not waits.acquire(0) and not waits.acquire(0.1)
    assert ": guda ?[2J? (process " in capsys.readouterr().out
    for text in ("", "[1]", '{"path": 1}', "\xff"):  # just being written, or damaged
        held.file.write_text(text, "latin-1")
        waits = Lock(tmp_path, tmp_path / "full")
        assert not waits.acquire(0) and not waits.acquire(0.1)
        assert capsys.readouterr().out == (f"{tmp_path}/full: another command works on it; waiting for it\n")
        assert at_work(tmp_path) == []
    held.release()


def test_eight_processes_never_work_on_one_thing_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "number").write_text("0")
    program = COUNT.replace(
        "import sys", "import sys, guda_lightning.storage.locks as l; l._POLL_SECONDS = 0.001"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(8)
    ]
    printed = "".join(process.communicate()[0] for process in running)
    assert [process.returncode for process in running] == [0] * 8 and "cannot" not in printed
    assert (tmp_path / "number").read_text() == "200"
    assert os.listdir(tmp_path) == ["number"]


def test_other_things_are_worked_on_side_by_side(tmp_path: Path) -> None:
    with holding(tmp_path), locked(tmp_path, tmp_path / "scores" / "guided-1.parquet"):
        assert sorted(owner.path for owner in at_work(tmp_path)) == [
            "scores/guided-0.parquet",
            "scores/guided-1.parquet",
        ]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_that_lives_on_holds_no_lock(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with locked(tmp_path, tmp_path / "full"):
        child = os.fork()
        if child == 0:  # as a worker of a data loader
            os.read(reader, 1)
            os._exit(0)
    assert Lock(tmp_path, tmp_path / "full").acquire(0)
    os.write(writer, b".")
    os.waitpid(child, 0)


def test_looking_disturbs_nobody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ended = threading.Event()

    def look() -> None:
        while not ended.is_set():
            at_work(tmp_path)

    looking = threading.Thread(target=look)
    looking.start()
    for _ in range(200):
        with locked(tmp_path, tmp_path / "full"):
            pass
    ended.set()
    looking.join()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_disk_without_locks_is_said_and_stops_nobody(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*arguments: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked(tmp_path, tmp_path / "full"), locked(tmp_path, tmp_path / "full"):
        pass
    line = (
        f"{tmp_path}/full: cannot be locked (this disk has no locks); do not run two commands on {tmp_path} "
        "at once\n"
    )
    assert capsys.readouterr().out == 2 * line
    assert os.listdir(tmp_path) == []


def test_a_file_that_is_removed_on_another_machine_is_opened_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, tries = fcntl.flock, list[int]()

    def stale(descriptor: int, how: int) -> None:
        tries.append(how)
        if len(tries) == 1:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", stale)
    with locked(tmp_path, tmp_path / "full"):
        assert len(at_work(tmp_path)) == 1
    assert capsys.readouterr().out == ""


def test_a_run_folder_that_cannot_be_is_left_to_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "file"
    run.touch()
    with locked(run, run / "full"):
        pass
    assert capsys.readouterr().out == (
        f"{run}/full: cannot be locked (File exists); do not run two commands on {run} at once\n"
    )


@pytest.mark.parametrize("to", ["file", "nothing"])
def test_a_folder_of_locks_that_is_none_stops_nobody(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], to: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / ".locks").symlink_to(to)
    assert Lock(tmp_path, tmp_path / "full").acquire(0)
    assert "/full: cannot be locked (N" in capsys.readouterr().out


def test_what_a_killed_owner_left_is_removed_by_the_next_command(tmp_path: Path) -> None:
    with holding(tmp_path) as process:
        tidy(tmp_path)
        assert len(at_work(tmp_path)) == 1  # it works
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert len(os.listdir(tmp_path / ".locks")) == 1 and at_work(tmp_path) == []
    tidy(tmp_path)
    assert os.listdir(tmp_path) == []


def test_doctor_and_runs_say_who_works_there(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unfinished = finished_run / "checkpoints" / "fit"
    unfinished.mkdir(parents=True)
    (unfinished / "last.ckpt").touch()
    assert run_state(RunFolder(finished_run)).unfinished != ()
    capsys.readouterr()
    with locked(finished_run, unfinished):
        (owner,) = at_work(finished_run)
        assert run_state(RunFolder(finished_run)).unfinished == ()  # it is no interrupted one
        assert main(["doctor", str(finished_run)]) == 0
        text = capsys.readouterr().out
        assert f"  at work:\n    checkpoints/fit {owner}\n" in text
        assert "  next:\n    wait for what works there now\n" in text
        assert main(["runs", str(finished_run), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)[0]["at_work"] == [vars(owner)]
        assert main(["runs", str(finished_run)]) == 0
        assert f"  {owner.user} on {owner.host}\n" in capsys.readouterr().out
