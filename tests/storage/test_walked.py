"""The files of a run folder: all of them, each by its own name, and what links lead to."""

from __future__ import annotations

import os
from pathlib import Path

from guda_lightning.storage.files import atomic_file
from guda_lightning.storage.locks import locked
from guda_lightning.storage.runs import RunFolder
from guda_lightning.storage.walked import states, walked


def test_files_are_found_by_their_own_names_and_what_is_no_result_is_not(tmp_path: Path) -> None:
    run, elsewhere = RunFolder(tmp_path / "run"), tmp_path / "disk"
    for path in (run.store / "b" / "x", run.store / "a" / "x", run.fit_stamp, elsewhere / "y"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1")
    (run.root / "scores").symlink_to(elsewhere)
    (run.root / "again").symlink_to(run.store)  # before it by name
    (run.store / "up").symlink_to(run.root)
    (run.store / "gone").symlink_to(tmp_path / "nothing")
    (run.store / "round").symlink_to(run.store / "round")
    (run.store / "file").symlink_to(elsewhere / "y")
    os.mkfifo(run.root / "pipe")
    with locked(run.root, run.full), atomic_file(run.root / "half") as half:
        half.touch()
        found = walked(run)
    assert list(found) == ["scores/y", "store/a/x", "store/b/x", "store/file"]
    assert found == {name: run.root / name for name in found}
    assert walked(RunFolder(tmp_path / "none")) == {}


def test_a_file_that_is_written_again_is_another(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    path = tmp_path / "scores" / "a.parquet"
    path.parent.mkdir()
    path.write_text("1")
    before = states(run)
    assert before == states(run) and list(before) == ["scores/a.parquet"]
    with atomic_file(path) as temporary:
        temporary.write_text("2")
        stat = path.stat()
        os.utime(temporary, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # the clock of a disk may be coarse
    assert states(run) != before
