"""Names of groups as a user gives them in one text."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from guda_lightning.errors import GroupError


def split_names(text: str, names: Sequence[str]) -> list[str]:
    """The names in a text: one of the known names as a whole, or several separated by commas, each once.

    Args:
        text: As a user gives it, such as ``"cats, dogs"``.
        names: All known names, which may hold commas themselves.
    """
    chosen = [text] if text in names else [name.strip() for name in text.split(",")]
    return list(dict.fromkeys(chosen))


def requested_groups(text: str, names: Sequence[str]) -> list[str]:
    """The groups that a text names, separated by commas, each once.

    Args:
        text: As a user gives it.
        names: The names of all groups.

    Raises:
        GroupError: One does not exist.
    """
    chosen = split_names(text, names)
    for name in chosen:
        if name not in names:
            raise unknown_group(name, names)
    return chosen


def unknown_group(name: str, names: Sequence[str]) -> GroupError:
    """The error for a group that is none of these."""
    return GroupError(
        f"unknown group '{name}'",
        found=f"'{name}'",
        expected=f"one of {len(names)} groups; nearest: {nearest(name, names)}",
        fix="correct the name",
    )


def nearest(word: str, words: Iterable[str]) -> str:
    """The three words that are spelt most like one, for an error message."""
    near = difflib.get_close_matches(str(word), list(words), n=3, cutoff=0.0)
    return ", ".join(f"'{name}'" for name in near)
