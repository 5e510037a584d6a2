"""One look for all progress bars."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from tqdm import tqdm

_WITH_TOTAL = "{desc}  [{bar:20}]  {done}/{total_fmt} {unit}{speed}{metrics}{left}"
_WITHOUT_TOTAL = "{desc}  {done} {unit}{speed}{metrics}"
_SECONDS = 0.1  # between two drawings
_LINE_SECONDS = 30.0  # between two lines where output is no terminal


class Bar(tqdm):  # type: ignore[misc]  # tqdm has no types
    """``fit  [#####     ]  812/1500 steps  12.3/s  loss 0.034  2:13 left``.

    Rate and time left are those of all work since the bar appeared, pauses for validation among it.

    Attributes:
        metrics: What else to show, called only when the bar is drawn.
    """

    monitor_interval = 0  # no thread: metrics may wait for a GPU
    metrics: Callable[[], Mapping[str, float]] = staticmethod(dict)

    @property
    def format_dict(self) -> dict[str, Any]:
        """What the format of the bar may name."""
        fields: dict[str, Any] = super().format_dict
        elapsed = fields["elapsed"]
        rate = (self.n - self.initial) / elapsed if elapsed > 0 else 0.0
        left = (self.total - self.n) / rate if self.total and rate else None
        return {
            **fields,
            "done": int(self.n),
            "speed": _speed(rate),
            "metrics": "".join(f"  {name} {value:.3g}" for name, value in self.metrics().items()),
            "left": "" if left is None else f"  {self.format_interval(left).removeprefix('0')} left",
        }

    @staticmethod
    def status_printer(file: TextIO) -> Callable[[str], None]:
        """Redraws one line of a terminal; elsewhere, writes one line after the other."""
        if file.isatty():
            redraw: Callable[[str], None] = tqdm.status_printer(file)
            return redraw

        def write(line: str) -> None:
            if line:
                file.write(f"{line.rstrip()}\n")
                file.flush()

        return write

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Draw, unless it is too early for a line that stays."""
        if self.delay and not self.fp.isatty() and super().format_dict["elapsed"] < self.delay:
            return False
        drawn: bool = super().display(msg, pos)
        return drawn

    def close(self) -> None:
        """Remove the bar; lines that are written stay."""
        if not self.disable and not self.fp.isatty():
            self.sp = None  # nothing to clear
        super().close()


def _speed(rate: float) -> str:
    if not rate:
        return ""
    if rate < 1:
        return f"  {1 / rate:.3g} s each"
    return f"  {rate:,.0f}/s" if rate >= 100 else f"  {rate:.3g}/s"


def progress_bar(
    title: str,
    unit: str,
    total: float | None = None,
    *,
    initial: float = 0,
    shown: bool = True,
    lines: bool = False,
    file: TextIO | None = None,
    delay: float = 0,
    position: int | None = None,
) -> Bar:
    """A bar that goes when the work is done.

    Args:
        title: What is done.
        unit: What is counted, in the plural.
        total: How many in all; None: nobody knows.
        initial: How many were done before.
        shown: Whether to show it at all.
        lines: Whether to write a line every 30 s where the file is no terminal; else it gets nothing.
        file: Where to show it; standard error if left out.
        delay: Seconds before it appears.
        position: Its line, counted from where the terminal stands; the next free one if left out.
    """
    file = file or sys.stderr
    terminal = file.isatty()
    return Bar(
        desc=title,
        unit=unit,
        total=total,
        initial=initial,
        disable=not shown or not (terminal or lines),
        file=file,
        delay=delay if terminal else _LINE_SECONDS,
        mininterval=_SECONDS if terminal else _LINE_SECONDS,
        miniters=1,
        position=position if terminal else 0,
        bar_format=_WITHOUT_TOTAL if total is None else _WITH_TOTAL,
        ascii=" #",
        dynamic_ncols=terminal,
        leave=False,
    )
