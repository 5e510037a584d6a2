"""Leftovers of killed writes are removed by the next command, those of living writes never."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from guda_lightning.cli.main import main
from guda_lightning.storage import files, leftovers
from guda_lightning.storage.files import atomic_file, atomic_folder, temporary_name
from guda_lightning.storage.leftovers import left_by_kills, tidy

# What a command leaves that is killed while it fills a file and a folder.
KILLED = """
import os, signal, sys
from pathlib import Path
from guda_lightning.storage.files import atomic_file, atomic_folder
run = Path(sys.argv[1])
with atomic_folder(run / "full") as folder, atomic_file(run / "scores" / "a.parquet") as file:
    (folder / "half").write_text("half")
    file.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def hidden(run: Path) -> list[Path]:
    return sorted(path for path in run.rglob(".*"))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with what a kill left."""
    program = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert program.returncode == -9 and len(hidden(tmp_path)) == 2
    return tmp_path


def test_what_a_kill_left_is_named_and_removed(run: Path) -> None:
    ends = "left by a write that was killed; the next command removes it"
    assert left_by_kills(run) == [f"{path}: {ends}" for path in hidden(run)]
    assert len(hidden(run)) == 2  # looking changes nothing
    tidy(run)
    assert hidden(run) == [] and left_by_kills(run) == []


def test_a_command_on_the_run_folder_removes_them(run: Path, finished_run: Path) -> None:
    for path in hidden(run):
        path.rename(finished_run / path.relative_to(run))
    assert main(["report", str(finished_run)]) == 0
    assert hidden(finished_run) == []


def test_what_is_being_filled_stays(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "full") as folder, atomic_file(tmp_path / "scores" / "a") as file:
        (folder / "half").touch()
        program = "import pathlib, sys; from guda_lightning.storage.leftovers import tidy; "
        program += "tidy(pathlib.Path(sys.argv[1]))"
        subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
        tidy(tmp_path)
        assert folder.is_dir() and file.is_file() and left_by_kills(tmp_path) == []
        file.touch()
    assert sorted(os.listdir(tmp_path)) == ["full", "scores"]


def test_what_is_removed_before_it_is_locked_is_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, seen = files.try_lock, list[Path]()

    def swept(descriptor: int) -> bool | None:
        if not seen:
            seen.extend(tmp_path.iterdir())
            seen[0].rmdir()
        return lock(descriptor)

    monkeypatch.setattr(files, "try_lock", swept)
    with atomic_folder(tmp_path / "full") as folder:
        assert folder.is_dir() and folder != seen[0]
        (folder / "file").touch()
    assert os.listdir(tmp_path / "full") == ["file"]


def left(run: Path, machine: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that a kill on another machine left."""
    with monkeypatch.context() as patched:
        patched.setattr(files, "this_machine", lambda: machine)
        path = temporary_name(run / "full")
    path.mkdir()
    return path


def test_what_another_machine_began_stays_for_a_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = left(tmp_path, "0" * 6, monkeypatch)
    tidy(tmp_path)
    assert path.is_dir()
    assert left_by_kills(tmp_path) == [
        f"{path}: left by a write that was killed, or still written on another machine; remove it if no "
        "command works there"
    ]
    (path / "file").touch()
    os.utime(path, (0, 0))
    tidy(tmp_path)
    assert path.is_dir()  # its file is new
    os.utime(path / "file", (0, 0))
    os.utime(path, (0, 0))
    tidy(tmp_path)
    assert not path.exists()


def test_where_nothing_can_be_locked_nothing_is_removed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    before = hidden(run)
    tidy(run)
    assert hidden(run) == before
    assert all("remove it if no command works there" in line for line in left_by_kills(run))


def test_files_are_locked_as_nfs_locks_them(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It refuses an exclusive lock on what is open for reading alone, as every folder is."""
    flock = fcntl.flock

    def on_nfs(descriptor: int, operation: int) -> None:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", on_nfs)
    file, folder = sorted(hidden(run), key=Path.is_dir)
    tidy(run)
    assert hidden(run) == [folder] and not file.exists()
    (said,) = left_by_kills(run)
    assert said.endswith("or still written on another machine; remove it if no command works there")


def test_links_and_the_users_own_hidden_files_stay(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / ".full.tmp").mkdir()
    link = temporary_name(tmp_path / "full")
    link.symlink_to(tmp_path / "mine")
    tidy(tmp_path)
    assert (tmp_path / "mine").is_dir() and (tmp_path / ".full.tmp").is_dir() and link.is_symlink()


def test_every_folder_in_which_stages_write_is_looked_through(finished_run: Path) -> None:
    # Found by walking a finished run; a folder that one rename writes holds no temporaries of its own.
    whole = {path.parent for path in finished_run.rglob("record.json")}
    parents = {
        path.parent for path in finished_run.rglob("*") if not any(one in path.parents for one in whole)
    }
    for parent in parents - whole:
        temporary_name(parent / "any").mkdir()
    assert len(hidden(finished_run)) >= 5
    tidy(finished_run)
    assert hidden(finished_run) == []
    assert leftovers.left_by_kills(finished_run) == []
