"""What ``guda attribute`` spends on a score table, measured."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from guda_lightning.attribution import FittedAttributor
from guda_lightning.scores import ScoreRecord
from guda_lightning.storage.costs import Preparation, Spent, TableCost, made_for, size_of
from guda_lightning.storage.runs import RunFolder

_STATUS, _PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_NOTHING = Spent()
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
            gpu = torch.cuda.max_memory_allocated(self._device) if _is_gpu(self._device) else None
            keep(Spent(seconds, core_seconds, self._evaluations - before, _peak(), gpu))


class TableCosts:
    """Keeps what one score table costs, while it is made.

    Args:
        run: The run folder.
        path: The table.
        attributor: What scores.
        record: What identifies the scores.
        queries: How many are scored.
        meter: What measures.
        writes: Whether this process writes.
    """

    def __init__(
        self,
        run: RunFolder,
        path: Path,
        attributor: FittedAttributor,
        record: ScoreRecord,
        queries: int,
        meter: Meter,
        writes: bool,
    ) -> None:
        self._file, self._attributor, self._meter, self._writes = run.cost_of(path), attributor, meter, writes
        self._scores, self._queries = record.hash, queries
        self._preparations = run.preparations
        self._prepared: Spent | None = _NOTHING
        self._known = TableCost.load(self._file)  # now: a damaged file is refused before hours of work

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """Measure the preparation in the block; where it is kept, add what earlier attempts spent.

        What is there already without a record of its cost, as after a process was killed, makes it unknown.
        """
        if type(self._attributor).prepare is FittedAttributor.prepare:
            yield
            return
        before = self._preparation()
        file = self._preparations / before.name
        known = Preparation.load(file) or (None if before.size else before)

        def keep(spent: Spent) -> None:
            after = self._preparation()
            if known is None:
                self._prepared = None
            elif before.size and not spent.evaluations and after.size == before.size:
                self._prepared = known.spent  # it was there already
            else:
                self._prepared = known.spent + spent
                if after.files and self._writes:
                    file.unlink(missing_ok=True)
                    replace(after, spent=self._prepared).save(self._preparations / after.name)

        with self._meter.measuring(keep):
            yield

    def _preparation(self) -> Preparation:
        """What is kept now."""
        kept = self._attributor.kept()
        return Preparation(tuple(path.name for path in kept), size_of(kept))

    @contextmanager
    def scoring(self) -> Iterator[None]:
        """Measure the scoring in the block, and add it to what earlier attempts spent."""
        with self._meter.measuring(self._keep):
            yield

    def _keep(self, spent: Spent) -> None:
        if not self._writes:
            return
        if self._known is not None and self._known.scores == self._scores:
            spent = self._known.scoring + spent
        made, kept = self._attributor.made(), self._attributor.kept()
        prepared = None if self._prepared is None else made_for(made) + self._prepared
        self._known = TableCost(self._scores, self._queries, prepared, spent, size_of((*made, *kept)))
        self._known.save(self._file)


def _is_gpu(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_available()


def _forget_peaks(device: torch.device) -> None:
    if _is_gpu(device):
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
