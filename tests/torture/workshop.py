"""The place where the harness works: processes on request, and the story as it stood after every step."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from guda_lightning.progress_bar import progress_bar
from torture import programs
from torture.story import STORY, Step
from warm import Server


@dataclass
class Workshop:
    """Runs commands and keeps what they make.

    Attributes:
        server: Starts processes that have imported everything.
        folder: Of all that is made.
        story: The commands, in order.
    """

    server: Server
    folder: Path
    story: Sequence[Step] = STORY
    work: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def run(self) -> Path:
        """The run folder that is disturbed; always of one path, which records hold."""
        return self.folder / "case" / "tiny"

    def snapshot(self, step: int) -> Path:
        """The run folder as it is before a step of the story."""
        return self.folder / "story" / str(step)

    def restore(self, step: int) -> None:
        """Make the run folder what it is before a step."""
        _ = self.finished
        self._copy(self.snapshot(step), self.run)

    def restored(self, name: str) -> tuple[int, list[str]]:
        """Make the run folder what it is before a step; its number and its command."""
        number = [step.name for step in self.story].index(name)
        self.restore(number)
        return number, self.story[number].command(self.run)

    def start(self, program: Callable[..., int | None], *arguments: object) -> tuple[int, str]:
        """Run a program to its end; its exit status and what it printed."""
        log = self.folder / "log.txt"
        with self.server.process(log, program, *arguments, COLUMNS="160") as process:
            return process.wait(), log.read_text("utf-8", "replace")

    @cached_property
    def finished(self) -> Path:
        """The run folder after the whole story, which is told the first time that anybody asks."""
        told = self.folder / "story" / "work.json"
        if told.is_file():  # in a folder that was kept, perhaps up to some step
            self.work = json.loads(told.read_text("utf-8"))
        else:
            shutil.rmtree(self.folder / "story", ignore_errors=True)
            self.snapshot(0).mkdir(parents=True)
        begin = len(self.work)
        self._copy(self.snapshot(begin), self.run)
        with progress_bar("torture: the story", "steps", len(self.story), delay=2) as bar:
            for number, step in enumerate(self.story[begin:], begin):
                code, out = self.start(programs.counted, step.command(self.run), self.folder / "count.json")
                if code:
                    raise SystemExit(f"the story ends at {step.name}, exit status {code}:\n{out[-4000:]}")
                self._copy(self.run, self.snapshot(number + 1))
                self.work[step.name] = json.loads((self.folder / "count.json").read_text("utf-8"))
                told.write_text(json.dumps(self.work), "utf-8")
                bar.update()
        return self.snapshot(len(self.story))

    def _copy(self, source: Path, target: Path) -> None:
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target, symlinks=True)
