"""What loggers can show besides numbers: tables, pictures, or both."""

from __future__ import annotations

import csv
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakKeyDictionary

import numpy as np
from lightning.pytorch.loggers import Logger
from PIL.Image import Image as Picture

from guda_lightning import compat
from guda_lightning.report.pictures import sheet

if TYPE_CHECKING:
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger

MAX_SHEET = 200  # pictures of a table that TensorBoard shows on one sheet


class Sink(ABC):
    """Shows tables and pictures in one logger.

    Attributes:
        shows: Which of ``tables`` and ``pictures``.
    """

    shows: ClassVar[frozenset[str]]

    @abstractmethod
    def table(
        self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int | None = None
    ) -> None:
        """Show a table.

        Args:
            key: What it is called, such as ``influence/scores``.
            columns: Titles, the first one that of what names a row.
            rows: Cells: texts, numbers, truth values, None, or pictures.
            step: Where on the axis of steps; None: nowhere.
        """

    @abstractmethod
    def pictures(
        self, key: str, pictures: Sequence[Picture], captions: Sequence[str] = (), step: int | None = None
    ) -> None:
        """Show pictures under one key.

        Args:
            key: What they are called.
            pictures: The pictures.
            captions: A line for each, or none at all.
            step: Where on the axis of steps; None: nowhere.
        """


class WandbSink(Sink):
    """W&B: tables with pictures in them, and pictures."""

    shows = frozenset({"tables", "pictures"})

    def __init__(self, logger: WandbLogger) -> None:
        self._logger = logger

    def table(
        self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int | None = None
    ) -> None:
        """A ``wandb.Table``."""
        import wandb

        data = [[wandb.Image(cell) if isinstance(cell, Picture) else cell for cell in row] for row in rows]
        self._logger.log_table(key, columns=list(columns), data=data, step=step)

    def pictures(
        self, key: str, pictures: Sequence[Picture], captions: Sequence[str] = (), step: int | None = None
    ) -> None:
        """``wandb.Image`` each."""
        said = {"caption": list(captions)} if captions else {}
        self._logger.log_image(key, list(pictures), step=step, **said)


class TensorBoardSink(Sink):
    """TensorBoard: pictures; of a table those in it, each with the name of its row, on one sheet."""

    shows = frozenset({"pictures"})

    def __init__(self, logger: TensorBoardLogger) -> None:
        self._logger = logger

    def table(
        self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int | None = None
    ) -> None:
        """The pictures in it."""
        found = [(cell, row[0]) for row in rows for cell in row if isinstance(cell, Picture)][:MAX_SHEET]
        if found:
            self.pictures(key, [cell for cell, _ in found], [name for _, name in found], step)

    def pictures(
        self, key: str, pictures: Sequence[Picture], captions: Sequence[str] = (), step: int | None = None
    ) -> None:
        """One picture as it is, several on a sheet."""
        one = pictures[0] if len(pictures) == 1 else sheet(pictures, captions)
        writer = self._logger.experiment
        writer.add_image(key, np.asarray(one.convert("RGB")), global_step=step or 0, dataformats="HWC")
        writer.flush()


class CsvSink(Sink):
    """CSV: tables as files beside ``metrics.csv``, rows of later steps below; pictures are left out."""

    shows = frozenset({"tables"})
    _begun: ClassVar[WeakKeyDictionary[Logger, set[Path]]] = WeakKeyDictionary()

    def __init__(self, logger: CSVLogger) -> None:
        self._logger = logger

    def table(
        self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int | None = None
    ) -> None:
        """``influence_scores.csv`` for the key ``influence/scores``, with a column of steps."""
        _ = self._logger.experiment  # empties the folder of an earlier run
        path = Path(self._logger.log_dir) / f"{key.replace('/', '_')}.csv"
        written = self._begun.setdefault(self._logger, set())
        kept = [n for n in range(len(columns)) if not any(isinstance(row[n], Picture) for row in rows)]
        steps = [] if step is None else [step]
        with path.open("a" if path in written else "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            if path not in written:
                writer.writerow(["step"] * len(steps) + [columns[n] for n in kept])
            writer.writerows([*steps, *(row[n] for n in kept)] for row in rows)
        written.add(path)

    def pictures(
        self, key: str, pictures: Sequence[Picture], captions: Sequence[str] = (), step: int | None = None
    ) -> None:
        """Nothing."""


_SINKS: dict[str, Callable[[Any], Sink]] = {
    "WandbLogger": WandbSink,
    "TensorBoardLogger": TensorBoardSink,
    "CSVLogger": CsvSink,
}


def sink_of(logger: Logger) -> Sink | None:
    """What shows tables or pictures in a logger of either of Lightning's packages; None where nothing can."""
    made = (make for name, make in _SINKS.items() if compat.is_lightning(logger, name))
    return next((make(logger) for make in made), None)


def sinks_of(loggers: Sequence[Logger]) -> list[Sink]:
    """The sinks of those loggers that have one."""
    return [sink for sink in map(sink_of, loggers) if sink is not None]
