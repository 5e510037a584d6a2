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
        shutil.rmtree(self.run, ignore_errors=True)
        shutil.copytree(self.snapshot(step), self.run)

    def start(self, program: Callable[..., int | None], *arguments: object) -> tuple[int, str]:
        """Run a program to its end; its exit status and what it printed."""
        log = self.folder / "log.txt"
        with self.server.process(log, program, *arguments, COLUMNS="160") as process:
            return process.wait(), log.read_text("utf-8", "replace")

    @cached_property
    def finished(self) -> Path:
        """The run folder after the whole story, which is told the first time that anybody asks."""
        last, told = self.snapshot(len(self.story)), self.folder / "story" / "work.json"
        if told.is_file():  # in a folder that was kept
            self.work = json.loads(told.read_text())
            return last
        shutil.rmtree(self.run, ignore_errors=True)
        self.run.mkdir(parents=True)
        with progress_bar("torture: the story", "steps", len(self.story), delay=2) as bar:
            shutil.rmtree(self.folder / "story", ignore_errors=True)
            for number, step in enumerate(self.story):
                shutil.copytree(self.run, self.snapshot(number))
                code, out = self.start(programs.counted, step.command(self.run), self.folder / "count.json")
                if code:
                    raise SystemExit(f"the story ends at {step.name}, exit status {code}:\n{out[-4000:]}")
                self.work[step.name] = json.loads((self.folder / "count.json").read_text())
                bar.update()
        shutil.copytree(self.run, last)
        told.write_text(json.dumps(self.work))
        return last
