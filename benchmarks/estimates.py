"""How well stages predict what they cost: the estimate that each prints, beside the clock."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from io import TextIOBase
from typing import TextIO
from unittest import mock

from benchmarks.stages import Asked, clock, unit
from benchmarks.tables import write_table
from guda_lightning.cli.main import main
from guda_lightning.diffusion import cost

_ESTIMATE = re.compile(r": about ([\d.]+) (s|min|h)$")
_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0}
_STAGES: dict[str, Sequence[str]] = {
    "fit": (),
    "retrain": ("--groups", "3,7"),
    "unlearn": ("-c", "unlearn/retrack.yaml", "--groups", "0,1,2,3"),
    "sample": ("--num", "64", "--steps", "50"),
    "attribute": ("-c", "attribute/elbo.yaml", "--operator", "retrack", "--groups", "0,1,2,3"),
}


class _Timed(TextIOBase):
    """Passes on what a stage says, and notes when it said what it will cost, and its last line."""

    def __init__(self, screen: TextIO) -> None:
        self._screen, self.predicted = screen, float("nan")
        self.start = self.end = clock()

    def write(self, text: str) -> int:
        if found := _ESTIMATE.search(text):
            self.predicted = float(found[1]) * _SECONDS[found[2]]
            self.start = clock()
        self.end = clock()
        return self._screen.write(text)

    def flush(self) -> None:
        self._screen.flush()


@contextmanager
def _timed() -> Iterator[_Timed]:
    timed = _Timed(sys.stdout)
    with redirect_stdout(timed):  # type: ignore[type-var]  # a text file as far as print goes
        yield timed


def run(asked: Asked) -> None:
    """Stages on the digits; 200 steps of training, so that it takes minutes."""
    root, size = asked.runs / f"estimates-{time.time_ns()}", asked.size
    shared = [
        "-c",
        "digits.yaml",
        "--run",
        str(root),
        "--trainer.max_steps",
        "200",
        "--trainer.logger",
        "false",
    ]
    rows: list[dict[str, object]] = []
    for stage, options in _STAGES.items():
        with _timed() as timed, mock.patch.object(cost, "_clock", clock):
            arguments = [
                stage,
                *shared,
                *size.network,
                *size.everywhere,
                *options,
                *size.stages.get(stage, ()),
            ]
            if code := main(arguments):
                raise SystemExit(code)
        actual = timed.end - timed.start
        rows.append(
            {
                "stage": stage,
                f"predicted, {unit()}": f"{timed.predicted:.3g}",
                f"actual, {unit()}": f"{actual:.3g}",
                "predicted / actual": f"{timed.predicted / actual:.2f}",
            }
        )
    notes = (
        "From the line that says the cost to the last line of the stage; importing, reading data and "
        "measuring the network come before. On a CPU estimates are measured in core seconds here, as other "
        "work on the machine changes the clock on the wall by more than they err; a user's are of that "
        "clock. `retrain` two groups, `unlearn` and `attribute` four; trainings have 200 steps."
    )
    write_table(asked.docs, "estimates", asked.command("estimates"), rows, notes)
