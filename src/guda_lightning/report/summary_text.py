"""A score table as plain text for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from guda_lightning.scores import ScoreTable
from guda_lightning.scores.summaries import UNDECIDED_BELOW, Tally, margins, with_error
from guda_lightning.scores.views import Sizes, View, views

WIDTH, MAX_GROUPS, MAX_QUERIES, TOP = 100, 40, 8, 3


def summary(table: ScoreTable, sizes: Sizes | None = None) -> str:
    """Write which groups lead, and the top groups of the first queries, in at most 100 columns.

    A table with several methods or weightings is summarised one after the other, each over its seeds.

    Args:
        table: The scores.
        sizes: What was measured of their size.
    """
    return summary_of_parts([table], sizes)


def summary_of_parts(parts: Iterable[ScoreTable], sizes: Sizes | None = None) -> str:
    """Write the ``summary`` of a table that comes in parts, of which one is in memory at a time."""
    tallies: dict[str, Tally] = {}
    shown: dict[str, View] = {}
    first: dict[str, list[str]] = {}
    for part in parts:
        for view in views(part, sizes):
            tallies.setdefault(view.title, Tally()).add(view)
            shown.setdefault(view.title, view)
            lines = first.setdefault(view.title, [])
            lines += _query_lines(view, MAX_QUERIES - len(lines))
    return "\n\n".join(_one(shown[title], tally, first[title]) for title, tally in tallies.items())


def _one(view: View, tally: Tally, queries: list[str]) -> str:
    unit = view.unit
    lines = [
        f"{view.title}: {tally.queries} queries, {len(tally.groups)} groups, {tally.undecided} undecided",
        *wrapped(f"unit: {unit.name}. {unit.why}"),
        *wrapped(f"±: {unit.covers}; of a mean, differences between queries as well" if unit.covers else ""),
        "",
        f"{'group':<40}{'mean score':>26}{'leads':>10}",
    ]
    groups = sorted(tally.summaries(), key=lambda row: -row.mean)
    lines += [
        f"{cut(row.group, 38):<40}{unit.number(row.mean, row.stderr):>26}{row.top:>10}"
        for row in groups[:MAX_GROUPS]
    ]
    lines += _rest(len(groups) - MAX_GROUPS, "groups")
    top = f"top groups{', ' if unit.symbol else ''}{unit.symbol}"
    lines += ["", f"{'query':<21}{top}; ? where the first two are too close to call", *queries]
    lines += _rest(tally.queries - MAX_QUERIES, "queries")
    return "\n".join(lines)


def _query_lines(view: View, count: int) -> list[str]:
    """The top groups of the first queries, one query a line."""
    scores, stderr = view.scores[:count], view.stderr[:count]
    decided = margins(scores, stderr) >= UNDECIDED_BELOW
    lines = []
    for query, row, errors, clear in zip(view.queries, scores, stderr, decided.tolist(), strict=False):
        cells = [f"{cut(query, 18):<18}{' ' if clear else '?'}  "]
        for g in row.topk(min(TOP, len(view.groups))).indices.tolist():
            number = with_error(float(row[g]), float(errors[g]))
            cells.append(f"{cut(view.groups[g], 24 - len(number))} {number}".ljust(26))
        lines.append("".join(cells).rstrip())
    return lines


def cut(text: str, width: int) -> str:
    """Shorten a name to a width, with nothing in it that moves the cursor."""
    text = "".join(character if character.isprintable() else "?" for character in text)
    return text if len(text) <= width else f"{text[: width - 1]}…"


def wrapped(text: str) -> list[str]:
    """Lines of at most `WIDTH` columns; none of an empty text."""
    printable = cut(text, max(len(text), 1))
    return textwrap.wrap(printable, WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def _rest(count: int, what: str) -> list[str]:
    return [f"… and {count} more {what}"] if count > 0 else []
