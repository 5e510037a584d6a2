"""What ``guda attribute`` spends on a score table, measured."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from guda_lightning.attribution import FittedAttributor
from guda_lightning.scores import ScoreRecord
from guda_lightning.storage.costs import Preparation, Spent, TableCost, made_for, size_of
from guda_lightning.storage.runs import RunFolder

_STATUS, _PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_FORGET = "5"  # written there: the most that was in memory so far (proc(5))


class Meter:
    """What the processes of a stage spend.

    Args:
        device: Where they compute.
        processes: How many there are; all spend the same number of evaluations.
    """

    def __init__(self, device: torch.device, processes: int = 1) -> None:
        self._device, self._processes, self._evaluations = device, processes, 0

    def count(self, evaluations: int) -> None:
        """Count network evaluations of this process."""
        self._evaluations += evaluations * self._processes

    @contextmanager
    def measuring(self, keep: Callable[[Spent], None]) -> Iterator[None]:
        """Give what a block spends to ``keep``, also where the block is interrupted.

        Memory is all that the process has in use at the same time, the full model and libraries included.
        Where the system cannot forget an earlier peak, it is the most since the process began.
        """
        _forget_peaks(self._device)
        before, clock, cores = self._evaluations, time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            seconds, core_seconds = time.perf_counter() - clock, time.process_time() - cores
            gpu = torch.cuda.max_memory_allocated(self._device) if self._device.type == "cuda" else None
            keep(Spent(seconds, core_seconds, self._evaluations - before, _peak(), gpu))


@dataclass(frozen=True)
class TableCosts:
    """Keeps what one score table costs, while it is made.

    Attributes:
        run: The run folder.
        path: The table.
        attributor: What scores.
        record: What identifies the scores.
        queries: How many are scored.
        meter: What measures.
        writes: Whether this process writes.
    """

    run: RunFolder
    path: Path
    attributor: FittedAttributor
    record: ScoreRecord
    queries: int
    meter: Meter
    writes: bool

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """Measure the preparation in the block, and add it to what earlier attempts spent."""
        if not self._prepares:
            yield
            return
        known = Preparation.load(self._prepared, self._identity)
        if known is None and not self.attributor.preparation():
            yield  # what is prepared already, nobody knows for how much
            return
        before = size_of(self.run.features)

        def keep(spent: Spent) -> None:
            total = known or Preparation(Spent(), 0, self._identity)
            disk = total.disk + size_of(self.run.features) - before
            if self.writes:
                replace(total, spent=total.spent + spent, disk=disk).save(self._prepared)

        with self.meter.measuring(keep):
            yield

    @contextmanager
    def scoring(self) -> Iterator[None]:
        """Measure the scoring in the block, and add it to what earlier attempts spent."""
        with self.meter.measuring(self._keep):
            yield

    def _keep(self, spent: Spent) -> None:
        if not self.writes:
            return
        file = self.run.cost_of(self.path)
        known = TableCost.load(file)
        if known is not None and known.scores == self.record.hash:
            spent = known.scoring + spent
        preparation, disk = self._preparation
        TableCost(self.record.hash, self.queries, preparation, spent, disk).save(file)

    @cached_property
    def _preparation(self) -> tuple[Spent | None, int | None]:
        """What was made before scoring, and how many bytes of it are kept; None: nobody knows."""
        folders = self.attributor.made()
        spent, disk = made_for(folders), size_of(*folders)
        if not self._prepares:
            return spent, disk
        known = Preparation.load(self._prepared, self._identity)
        return (None, None) if known is None else (spent + known.spent, disk + known.disk)

    @property
    def _prepares(self) -> bool:
        return type(self.attributor).prepare is not FittedAttributor.prepare

    @property
    def _identity(self) -> str:
        """Hash of all that identifies the scores but the queries."""
        return replace(self.record, query_hash=None, encoders=None, chunks=()).hash

    @property
    def _prepared(self) -> Path:
        return self.run.preparation_of(self.attributor.method, self._identity)


def _forget_peaks(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        _PEAK.write_text(_FORGET)
    except OSError:  # not Linux, or not allowed
        return


def _peak() -> int:
    """Most bytes of this process that were in memory, since they were last forgotten."""
    try:
        (line,) = (line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
