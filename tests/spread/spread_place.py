"""Runs that stop in mid-training, for tests that kill something there."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from guda_lightning.cli.main import main
from guda_lightning.counterfactuals import CounterfactualRecord, CounterfactualStore

CONF = Path(__file__).parents[1] / "conf"
SHARED = ["-c", f"{CONF}/digits.yaml", "-c", f"{CONF}/zero_target.yaml", "--steps", "12"]  # four epochs


class Place:
    """A folder to start guda in, and the run folder in it.

    Attributes:
        folder: The folder.
        run: The run folder, with a full model.
    """

    def __init__(self, folder: Path, finished: Path) -> None:
        self.folder, self.run = folder, folder / "run"
        shutil.copytree(finished / "full", self.run / "full")
        shutil.copy(Path(__file__).with_name("diary.py"), folder)

    def unlearn(self, groups: str, stops: str, *options: str) -> list[str]:
        """The arguments of guda that unlearn groups, some of which stop in the second epoch."""
        diary = {"class_path": "diary.Diary", "init_args": {"stops": stops}}
        config = self.folder / "diary.yaml"
        config.write_text(yaml.safe_dump({"trainer": {"callbacks": [diary]}}))
        return ["unlearn", *SHARED, "-c", str(config), "--run", "run", "--groups", groups, *options]

    def go(self) -> None:
        """Let those that wait go on."""
        (self.folder / "go").touch()

    def diary(self) -> list[tuple[str, str, int]]:
        """Group, step or ``end``, and process, in the order they were written."""
        path = self.folder / "diary.txt"
        lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        return [(group, what, int(pid)) for group, what, pid in lines]

    def steps(self) -> list[tuple[str, str]]:
        """The diary without processes."""
        return [(group, what) for group, what, _ in self.diary()]

    def records(self) -> dict[str, CounterfactualRecord]:
        """What is in the store, by group."""
        return {record.key.name: record for record in CounterfactualStore(self.run / "store").records()}

    def alone(self, groups: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, CounterfactualRecord]:
        """What one process makes of the same groups, one after the other."""
        other = Place(self.folder / "alone", self.run)
        with monkeypatch.context() as patch:
            patch.chdir(other.folder)
            assert main(["unlearn", *SHARED, "--run", "run", "--groups", groups]) == 0
        return other.records()


def wait_until(true: Callable[[], object], seconds: float = 200) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
