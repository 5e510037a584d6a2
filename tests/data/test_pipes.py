"""Pipes in place of files: refused, as reading one may never end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from guda_lightning.cli.main import main
from guda_lightning.storage.files import read_regular

NO_FILE = "a pipe, a socket or a device"


def test_a_table_that_is_a_pipe_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipe = tmp_path / "groups.csv"
    os.mkfifo(pipe)
    options = ["-c", "digits.yaml", "--data.groups", str(pipe), "--run", str(tmp_path / "run")]
    assert main(["fit", *options]) == 2
    lines = [line.strip() for line in capsys.readouterr().err.splitlines()]
    assert lines[:2] == [f"error: the group metadata {pipe} cannot be read", f"found:    {NO_FILE}"]


def test_a_pipe_that_a_shell_has_made_is_read() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"text")
    os.close(writing)
    assert read_regular(f"/dev/fd/{reading}") == b"text"
    os.close(reading)


def test_a_query_that_is_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "1.png")
    with pytest.raises(OSError, match=NO_FILE):
        read_regular(tmp_path / "1.png")
