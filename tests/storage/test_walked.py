"""The files of a run folder: all of them, each by its own name, and which links are followed."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from guda_lightning.errors import StoreError
from guda_lightning.storage.files import atomic_file
from guda_lightning.storage.locks import locked
from guda_lightning.storage.runs import RunFolder
from guda_lightning.storage.walked import left_out, walked
from toys import message


def test_files_are_found_by_their_own_names_and_what_is_no_result_is_not(tmp_path: Path) -> None:
    run, elsewhere = RunFolder(tmp_path / "run"), tmp_path / "disk"
    for path in (run.store / "b" / "x", run.store / "a" / "x", run.fit_stamp, elsewhere / "y"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1")
    (run.root / "scores").symlink_to(elsewhere)
    (run.root / "queries").symlink_to(run.store)  # before it by name
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
    assert left_out(run) == []
    assert walked(RunFolder(tmp_path / "none")) == {}


def test_a_folder_of_a_user_that_is_linked_into_the_run_is_left_alone(tmp_path: Path) -> None:
    run, images = RunFolder(tmp_path / "run"), tmp_path / "images"
    for path in (images / "cats" / "1.png", run.root / "mine" / "notes.txt", run.store / "a"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1")
    for name in ("data", "mine/data"):
        (run.root / name).symlink_to(images)
    (run.root / "one.png").symlink_to(images / "cats" / "1.png")
    assert list(walked(run)) == ["mine/notes.txt", "one.png", "store/a"]
    assert left_out(run) == ["data", "mine/data"]


def failing(monkeypatch: pytest.MonkeyPatch, name: str, error: OSError) -> None:
    """Let the listing of a folder fail."""
    scandir: Callable[[str], Any] = os.scandir

    def listed(path: str) -> Iterator[os.DirEntry[str]]:
        if path.endswith(f"/{name}/"):
            raise error
        found: Iterator[os.DirEntry[str]] = scandir(path)
        return found

    monkeypatch.setattr(os, "scandir", listed)


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ENOTDIR, errno.ESTALE])
def test_what_another_command_has_just_replaced_is_no_file(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path)
    for name in ("a", "b"):
        (run.store / name).mkdir(parents=True)
        (run.store / name / "x").touch()
    failing(monkeypatch, "a", OSError(number, os.strerror(number)))
    assert list(walked(run)) == ["store/b/x"]


def test_a_folder_that_cannot_be_read_is_refused_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path)
    (run.store / "a").mkdir(parents=True)
    failing(monkeypatch, "a", PermissionError(errno.EACCES, "Permission denied"))
    with pytest.raises(
        StoreError,
        match=message(
            f"{run.store}/a cannot be read",
            "Permission denied",
            "a run folder of which every file can be listed",
            "give yourself the right to read it, or move it out of the run folder",
        ),
    ):
        walked(run)
