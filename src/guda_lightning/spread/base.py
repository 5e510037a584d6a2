"""What every executor can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from typing import NamedTuple

from guda_lightning.spread.task import Task

LOOK_SECONDS = 0.2  # between two looks at what ended: short beside any training, and costs nothing


class Ended(NamedTuple):
    """A task that is over.

    Attributes:
        task: The task.
        problem: Why it failed; None: it reported success.
    """

    task: Task
    problem: str | None


class Executor(ABC):
    """Runs independent tasks, several at a time."""

    @property
    @abstractmethod
    def devices(self) -> int | None:
        """How many devices each task sees; None: the processors, as many processes as it likes."""

    @abstractmethod
    def room(self) -> int:
        """How many tasks run at a time, at least 1.

        Raises:
            ConfigError: A task would never run.
        """

    @abstractmethod
    def run(self, tasks: Sequence[Task]) -> Generator[list[Ended], None, None]:
        """Run the tasks; whoever stops looking stops those that still run.

        Args:
            tasks: In the order to start them.

        Yields:
            What ended since the last look, often nothing, several times a second.

        Raises:
            GudaError: A task cannot run where the executor placed it.
        """
