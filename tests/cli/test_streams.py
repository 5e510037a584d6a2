"""Output that nobody reads, that has no room or few letters, and a working folder that is gone."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

GUDA = f"{shlex.quote(sys.executable)} -m guda_lightning"
LOST = (
    "error: nope is no folder\n  found:    nothing at nope\n  expected: a folder to look for run folders in\n"
    "  fix:      correct the path, or leave it out to look here\n"
)


def shell(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        errors="replace",
    )


@pytest.mark.parametrize(
    ("command", "code", "err"),
    [
        (f"{GUDA} configs >&-", 0, ""),
        (f"{GUDA} configs 2>&-", 0, ""),
        (f"{GUDA} runs nope >&-", 2, LOST),
        (f"{GUDA} runs nope 2>&-", 2, ""),
        (f"{GUDA} runs nope >&- 2>&-", 2, ""),
        (f"{GUDA} runs nope 2>/dev/full", 2, ""),
        (f"({GUDA} runs nope 2>&1 >/dev/null; exit $?) | true", 141, ""),
    ],
)
def test_output_that_is_closed_or_unread(command: str, code: int, err: str, tmp_path: Path) -> None:
    done = shell(command, tmp_path)
    assert (done.returncode, done.stderr) == (code, err)


def test_output_on_a_full_disk(tmp_path: Path) -> None:
    done = shell(f"{GUDA} configs >/dev/full", tmp_path)
    problem, found, expected, fix = done.stderr.splitlines()
    assert done.returncode == 2
    assert problem == "error: the system cannot read or write"
    assert found.startswith("  found:    No space left on device (guda_lightning/cli/")
    assert expected == "  expected: disks with room, for the output as well, and what is read within reach"
    assert fix == "  fix:      mend what it names, and run the command again: what it has made is kept"


def test_a_name_that_the_terminal_has_no_letters_for(tmp_path: Path) -> None:
    (tmp_path / "é…" / "full").mkdir(parents=True)
    (tmp_path / "é…" / "full" / "model_index.json").write_text("{}")
    done = shell(f"{GUDA} runs", tmp_path, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1].split()[:3] == ["\\xe9\\u2026", "no", "record"]
    done = shell(f"{GUDA} report ü", tmp_path, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr.splitlines()[0]) == (2, "error: \\xfc is no run folder")


def test_a_working_folder_that_is_gone(tmp_path: Path) -> None:
    done = shell(f"mkdir gone && cd gone && rmdir ../gone && {GUDA} configs", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: the working folder cannot be used\n"
        "  found:    No such file or directory\n"
        "  expected: a folder that exists: relative paths, and libraries, start from it\n"
        "  fix:      cd to another folder, or to the same path again where it was made anew\n"
    )


def test_a_rank_that_is_no_number(tmp_path: Path) -> None:
    done = shell(f"{GUDA} runs nope", tmp_path, LOCAL_RANK="x")
    assert (done.returncode, done.stderr) == (2, LOST.replace("error:", "error (process x):", 1))
