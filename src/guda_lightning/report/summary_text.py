"""A score table as plain text for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from guda_lightning.report.standing import Findings, Standing
from guda_lightning.report.text import cut, wrapped
from guda_lightning.report.verdict_section import verdict_finding, verdict_rows
from guda_lightning.scores import ScoreTable, Verdict
from guda_lightning.scores.summaries import UNDECIDED_BELOW, Tally, margins, with_error
from guda_lightning.scores.views import View, views

MAX_GROUPS, MAX_QUERIES, TOP = 40, 8, 3
MAX_REASONS = 10  # of counterfactuals that are not valid


def summary(table: ScoreTable, findings: Findings | None = None) -> str:
    """Write which groups lead, and the top groups of the first queries, in at most 100 columns.

    A table with several methods or weightings is summarised one after the other, each over its seeds.

    Args:
        table: The scores.
        findings: What was found about them.
    """
    return summary_of_parts([table], findings)


def summary_of_parts(parts: Iterable[ScoreTable], findings: Findings | None = None) -> str:
    """Write the ``summary`` of a table that comes in parts, of which one is in memory at a time."""
    found = findings or Findings()
    tallies: dict[str, Tally] = {}
    shown: dict[str, tuple[View, Standing]] = {}
    first: dict[str, list[str]] = {}
    verdicts: Mapping[str, Verdict] = {}
    for part in parts:
        verdicts = part.verdicts
        for view in views(part, found.sizes(part)):
            tallies.setdefault(view.title, Tally()).add(view)
            _, standing = shown.setdefault(view.title, (view, found.standing(part.record, view)))
            lines = first.setdefault(view.title, [])
            lines += _query_lines(view, MAX_QUERIES - len(lines), marked=not standing.unclear)
    return "\n\n".join(_one(*shown[title], tally, first[title], verdicts) for title, tally in tallies.items())


def _one(
    view: View, standing: Standing, tally: Tally, queries: list[str], verdicts: Mapping[str, Verdict]
) -> str:
    unit, unclear = view.unit, standing.unclear
    counted = "" if unclear else f", {tally.undecided} undecided"
    lines = [
        f"{view.title}: {tally.queries} queries, {len(tally.groups)} groups{counted}",
        *wrapped(standing.headline),
        *wrapped(standing.size),
        *wrapped(
            f"±: of a score, {unit.covers}; of a mean, differences between queries as well"
            if unit.covers
            else ""
        ),
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
    close = f"none is clear: {unclear}" if unclear else "? where the first two are too close to call"
    lines += ["", *wrapped(f"{'query':<21}{top}; {close}"), *queries]
    lines += _rest(tally.queries - MAX_QUERIES, "queries")
    return "\n".join(lines)


def _query_lines(view: View, count: int, marked: bool) -> list[str]:
    """The top groups of the first queries, one query a line; with a mark where the first is not clear."""
    scores, stderr = view.scores[:count], view.stderr[:count]
    close = margins(scores, stderr) < UNDECIDED_BELOW
    lines = []
    for query, row, errors, mark in zip(view.queries, scores, stderr, close.tolist(), strict=False):
        cells = [f"{cut(query, 18):<18}{'?' if mark and marked else ' '}  "]
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


def _rest(count: int, what: str) -> list[str]:
    return [f"… and {count} more {what}"] if count > 0 else []
