"""Commands that draw without other groups share one table of distances: none loses the rows of another."""

from __future__ import annotations

import re
from pathlib import Path

import struck
from guda_lightning.storage.locks import locked
from warm import Server

CONF = Path(__file__).parents[1] / "conf"


def test_distances_are_measured_by_one_command_at_a_time(
    warm: Server, finished_run: Path, tmp_path: Path
) -> None:
    path = finished_run / "without" / "retrack" / "distances.parquet"
    files = [part for name in ("digits", "sample") for part in ("-c", str(CONF / f"{name}.yaml"))]
    drawn = ["sample", *files, "--run", str(finished_run), "--without", "3", "--operator", "retrack"]
    with warm.process(tmp_path / "log", struck.guda, drawn, 1024, "SIGKILL", 1, "never") as process:
        with locked(finished_run, path):
            process.until_matched(re.escape(f"{path}: another command works on it") + ".*; waiting for it")
            assert (finished_run / "without" / "retrack" / "3" / "record.json").is_file()
            assert not path.exists()
        assert process.wait() == 0
    assert path.is_file()
