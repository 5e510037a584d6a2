"""Folders that are replaced: killed at every step, one of the two is found; with an exchange and without."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guda_lightning.storage import replacing
from guda_lightning.storage.files import atomic_folder
from guda_lightning.storage.leftovers import tidy

STEPS = ("os.rename", "shutil.rmtree", "exchange")


def write(run: Path, text: str) -> None:
    with atomic_folder(run / "full") as folder:
        (folder / "one").write_text(text)
        (folder / "two").write_text(text)


def read(run: Path) -> tuple[str, str]:
    return (run / "full" / "one").read_text(), (run / "full" / "two").read_text()


def without_exchange() -> None:
    replacing._exchange = lambda first, second: False


def with_exchange() -> None:
    exchange: Callable[..., bool] = replacing._exchange

    def watched(first: Path, second: Path) -> bool:
        sys.audit("exchange")
        done = exchange(first, second)
        assert done
        sys.audit("exchange")
        return done

    replacing._exchange = watched


def killed(run: Path, how: Callable[[], None], number: int) -> bool:
    """Replace a folder in a child that is killed at its n-th step; whether it came so far."""
    child = os.fork()
    if child == 0:
        how()
        left = [number]

        def watch(event: str, arguments: tuple[Any, ...]) -> None:
            if event in (*STEPS, "os.remove", "os.rmdir"):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        write(run, "new")
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("how", [with_exchange, without_exchange])
def test_killed_at_any_step_the_old_or_the_new_folder_is_there(
    tmp_path: Path, how: Callable[[], None]
) -> None:
    found, number = [], 1
    while True:
        run = tmp_path / str(number)
        write(run, "old")
        was_killed = killed(run, how, number)
        tidy(run)
        assert os.listdir(run) == ["full"]
        (text,) = set(read(run))
        found.append(text)
        if not was_killed:
            break
        number += 1
    assert number > 4 and set(found) == {"old", "new"}
    assert found == sorted(found, reverse=True)  # once the new one is there, it stays


def test_a_kill_in_the_only_window_leaves_the_old_folder_aside(tmp_path: Path) -> None:
    write(tmp_path, "old")
    assert killed(tmp_path, without_exchange, 3)  # after it has stepped aside, before the new one comes
    assert sorted(name.split(".")[1] for name in os.listdir(tmp_path)) == ["full", "full"]
    assert (tmp_path / ".full.aside").is_dir() and not (tmp_path / "full").exists()
    tidy(tmp_path)
    assert read(tmp_path) == ("old", "old")


def test_an_exchange_leaves_no_moment_without_the_folder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "file").touch()
    assert replacing._exchange(tmp_path / "a", tmp_path / "b")
    assert os.listdir(tmp_path / "a") == [] and os.listdir(tmp_path / "b") == ["file"]
    assert not replacing._exchange(tmp_path / "a", tmp_path / "c")


def test_without_exchange_writers_replace_and_undo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replacing, "_exchange", lambda first, second: False)
    write(tmp_path, "old")
    write(tmp_path, "new")
    assert read(tmp_path) == ("new", "new")
    assert os.listdir(tmp_path) == ["full"]
    rename = os.rename

    def failing(source: Path, target: Path) -> None:
        if target == tmp_path / "full" and not target.exists() and not source.name.endswith(".aside"):
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, "newer")
    monkeypatch.undo()
    assert read(tmp_path) == ("new", "new")
    assert os.listdir(tmp_path) == ["full"]


def test_half_a_folder_that_is_being_removed_is_never_taken_for_the_whole(tmp_path: Path) -> None:
    write(tmp_path, "new")
    aside = tmp_path / ".full.aside"
    aside.mkdir()
    (aside / "one").write_text("old")
    tidy(tmp_path)
    assert os.listdir(tmp_path) == ["full"] and read(tmp_path) == ("new", "new")
