"""A score table as plain text for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence

from guda_lightning.report.verdict_section import verdict_finding, verdict_rows
from guda_lightning.scores import ScoreTable, Verdict
from guda_lightning.scores.summaries import UNDECIDED_BELOW, Tally, margins, with_error
from guda_lightning.scores.views import Sizes, View, views

WIDTH, MAX_GROUPS, MAX_QUERIES, TOP = 100, 40, 8, 3
MAX_REASONS = 10  # of counterfactuals that are not valid


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
    verdicts: Mapping[str, Verdict] = {}
    for part in parts:
        verdicts = part.verdicts
        for view in views(part, sizes):
            tallies.setdefault(view.title, Tally()).add(view)
            shown.setdefault(view.title, view)
            lines = first.setdefault(view.title, [])
            lines += _query_lines(view, MAX_QUERIES - len(lines))
    return "\n\n".join(_one(shown[title], tally, first[title], verdicts) for title, tally in tallies.items())


def _one(view: View, tally: Tally, queries: list[str], verdicts: Mapping[str, Verdict]) -> str:
    unit = view.unit
    lines = [
        f"{view.title}: {tally.queries} queries, {len(tally.groups)} groups, {tally.undecided} undecided",
        *wrapped(f"unit: {unit.name}. {unit.why}"),
        *wrapped(f"±: {unit.covers}; of a mean, differences between queries as well" if unit.covers else ""),
        "",
        f"{'group':<40}{'mean score':>26}{'leads':>10}" + (f"  {'verdict':<10}".rstrip() if verdicts else ""),
    ]
    groups = sorted(tally.summaries(), key=lambda row: -row.mean)
    lines += [
        f"{cut(row.group, 38):<40}{unit.number(row.mean, row.stderr):>26}{row.top:>10}"
        + (f"  {verdicts[row.group].grade}" if row.group in verdicts else "")
        for row in groups[:MAX_GROUPS]
    ]
    lines += _rest(len(groups) - MAX_GROUPS, "groups")
    lines += _verdict_lines(verdicts)
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


def _verdict_lines(verdicts: Mapping[str, Verdict]) -> list[str]:
    """Which counterfactuals are not to be believed, and why."""
    if not verdicts:
        return []
    rows = [row for row in verdict_rows(verdicts) if row.grade != "valid"]
    lines = ["", verdict_finding(verdicts)]
    lines += [cut(f"  {cut(row.group, 20)}: {row.grade}, {row.reason}", 100) for row in rows[:MAX_REASONS]]
    return lines + _rest(len(rows) - MAX_REASONS, "reasons")


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


def _rest(count: int, what: str) -> list[str]:
    return [f"… and {count} more {what}"] if count > 0 else []
