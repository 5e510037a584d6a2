"""What users are told about their data, once a command."""

from __future__ import annotations

_told: set[str] = set()


def tell_once(text: str, topic: str | None = None) -> None:
    """Tell the user something, on the first process and once a command; in Python, once a process.

    Args:
        text: One line.
        topic: What it is about, where a second line about it would be one too many. None: its own text.
    """
    from lightning.pytorch.utilities import rank_zero_only

    if (topic or text) not in _told:
        _told.add(topic or text)
        rank_zero_only(print)(text, flush=True)


def begin() -> None:
    """Begin another command: everything may be told again."""
    _told.clear()
