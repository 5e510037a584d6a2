"""Tables of texts for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

_WIDEST = 44


def shown(text: str) -> str:
    """A text as a terminal can show it: what does not print as itself is escaped."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows under one another, every column as wide as its longest text; longer ones than 44 are cut.

    Args:
        rows: Texts, the first row the heads of the columns.
    """
    cut = [[one if len(one) <= _WIDEST else f"{one[: _WIDEST - 1]}…" for one in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cut, strict=True)]
    lines = ["  ".join(one.ljust(width) for one, width in zip(row, widths, strict=True)) for row in cut]
    return "\n".join(line.rstrip() for line in lines)
