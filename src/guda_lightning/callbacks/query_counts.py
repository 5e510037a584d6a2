"""What users are told of the queries that a validation scores: how many, and of which groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence


def drawn_text(count: int, of: int | None, seed: int, groups: Sequence[str | None]) -> str | None:
    """How many queries were drawn of how many, and of which groups; None where all are scored.

    Args:
        count: Queries that are scored.
        of: Samples of the validation; None where nobody knows.
        seed: Of the draw.
        groups: Which group each query belongs to; None where nobody knows.
    """
    if of is not None and count >= of:
        return None
    known = "" if of is None else f" of {of:,}"
    text = f"scores {count:,}{known} validation samples, drawn over all of them with seed {seed}"
    counts = Counter(group for group in groups if group is not None)
    listed = ", ".join(f"{number} of {group}" for group, number in sorted(counts.items()))
    return f"{text}: {listed}" if 0 < len(counts) <= 12 else text


def most_text(groups: Sequence[str | None], known: Collection[str]) -> str | None:
    """Which group most of the queries belong to; None where they are spread, or nobody knows.

    Most are more than halfway between an even share and all of them.

    Args:
        groups: Which group each query belongs to; None where nobody knows.
        known: Names of the groups.
    """
    counts = Counter(group for group in groups if group is not None)
    every = {*known, *counts}
    if not counts or len(every) < 2:
        return None
    (group, number), *_ = counts.most_common(1)
    if number <= len(groups) * (1 + 1 / len(every)) / 2:
        return None
    return (
        f"{number} of {len(groups)} queries are of group '{group}': mean scores say little of queries of the "
        "other groups; give the trainer validation data of all groups, or pass queries=FOLDER"
    )
