"""Names and sentences that fit a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

WIDTH = 100  # columns


def cut(text: str, width: int) -> str:
    """Shorten a name to a width, with nothing in it that moves the cursor."""
    text = "".join(character if character.isprintable() else "?" for character in text)
    return text if len(text) <= width else f"{text[: width - 1]}…"


def wrapped(text: str) -> list[str]:
    """Lines of at most `WIDTH` columns; none of an empty text."""
    printable = cut(text, max(len(text), 1))
    return textwrap.wrap(printable, WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def listed(names: Sequence[str], most: int, count: int | None = None) -> str:
    """``a, b, and 3 more``.

    Args:
        names: In order; the first ``most`` are told.
        most: Names that are told.
        count: How many there are, where not all of them are given.
    """
    more = (len(names) if count is None else count) - most
    return ", ".join(names[:most]) + (f", and {more} more" if more > 0 else "")
