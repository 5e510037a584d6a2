"""What a person sees while tasks run elsewhere: on a terminal, and in a file."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from guda_lightning.spread import Ended, Task
from guda_lightning.spread.progress import Progress, read_progress, write_progress
from guda_lightning.spread.screen import Screen
from terminal import Terminal


def tasks(folder: Path, *names: str) -> list[Task]:
    return [Task(name, "unlearn", folder, (), folder / f"{name}.log", folder) for name in names]


def test_one_line_for_all_and_one_for_each_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr("guda_lightning.spread.screen._SECONDS", 0.0)
    one, two, three = tasks(tmp_path, "one", "two", "three")
    shown: list[list[str]] = []

    def shorter() -> list[str]:
        return [
            re.sub(r"\[[ #]*\]|  \S+(/s| s each).*", "", line).rstrip() for line in terminal.lines() if line
        ]

    with Screen("unlearn", [one, two, three]) as screen:

        def work():  # type: ignore[no-untyped-def]
            yield []
            shown.append(shorter())
            write_progress(one.progress, Progress(2, 8))
            write_progress(two.progress, Progress(4, 8))
            yield []
            shown.append(shorter())
            write_progress(one.progress, Progress(6, 8))
            yield [Ended(two, None)]
            shown.append(shorter())
            write_progress(three.progress, Progress(5, None))
            yield []
            shown.append(shorter())
            yield [Ended(one, None), Ended(three, "exit code 2")]

        for ended in screen.watch(work()):
            if ended:
                print("said by another")
            for task, problem in ended:
                screen.end(task, f"{task.name}: {problem}")

    assert shown == [
        ["unlearn    0/3 done"],
        ["unlearn    0/3 done", "  one    2/8 steps", "  two    4/8 steps"],
        ["said by another", "two: None", "unlearn    1/3 done", "  one    6/8 steps"],
        ["said by another", "two: None", "unlearn    1/3 done", "  one    6/8 steps", "  three  5 steps"],
    ]
    assert [line for line in terminal.lines() if line] == [
        "said by another",
        "two: None",
        "said by another",
        "one: None",
        "three: exit code 2",
    ]
    assert list(tmp_path.iterdir()) == []


def test_a_file_gets_messages_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (one,) = tasks(tmp_path, "one")
    write_progress(one.progress, Progress(1, 2))
    with Screen("unlearn", [one]) as screen:
        for _ in screen.watch(iter([[], [Ended(one, None)]])):
            pass
        screen.end(one, "one: done")
    assert capsys.readouterr() == ("one: done\n", "")


def test_progress_that_is_not_there_yet(tmp_path: Path) -> None:
    assert read_progress(tmp_path / "nothing") is None
