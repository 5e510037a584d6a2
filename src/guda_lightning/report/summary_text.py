"""A score table as plain text for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from guda_lightning.report.verdict_section import verdict_finding, verdict_rows
from guda_lightning.scores import ScoreTable, Verdict
from guda_lightning.scores.summaries import UNDECIDED_BELOW, Tally, margins, with_error

MAX_GROUPS, MAX_QUERIES, TOP = 40, 8, 3
MAX_REASONS = 10  # of counterfactuals that are not valid


def summary(table: ScoreTable) -> str:
    """Write which groups lead, and the top groups of the first queries, in at most 100 columns.

    A table with several methods, weightings or seeds is summarised one after the other.
    """
    return summary_of_parts([table])


def summary_of_parts(parts: Iterable[ScoreTable]) -> str:
    """Write the ``summary`` of a table that comes in parts, of which one is in memory at a time."""
    tallies: dict[tuple[str, str, int], Tally] = {}
    first: dict[tuple[str, str, int], list[str]] = {}
    verdicts: Mapping[str, Verdict] = {}
    for part in parts:
        verdicts = part.verdicts
        for view in views(part):
            chosen = part.select(*view)
            tallies.setdefault(view, Tally()).add(chosen)
            lines = first.setdefault(view, [])
            lines += _query_lines(chosen, MAX_QUERIES - len(lines))
    return "\n\n".join(_one(view, tally, first[view], verdicts) for view, tally in tallies.items())


def views(table: ScoreTable) -> list[tuple[str, str, int]]:
    """The combinations of method, weighting and seed that a table holds, in the order of their first row."""
    keys = table.table.group_by(["method", "weighting", "seed"], use_threads=False).aggregate([])
    return [(row["method"], row["weighting"], row["seed"]) for row in keys.to_pylist()]


def _one(
    view: tuple[str, str, int], tally: Tally, queries: list[str], verdicts: Mapping[str, Verdict]
) -> str:
    method, weighting, seed = view
    lines = [
        f"{method}, weighting {weighting}, seed {seed}: {tally.queries} queries, "
        f"{len(tally.groups)} groups, {tally.undecided} undecided",
        "",
        f"{'group':<40}{'mean score':>26}{'leads':>10}" + (f"  {'verdict':<10}".rstrip() if verdicts else ""),
    ]
    groups = sorted(tally.summaries(), key=lambda row: -row.mean)
    lines += [
        f"{cut(row.group, 38):<40}{with_error(row.mean, row.stderr):>26}{row.top:>10}"
        + (f"  {verdicts[row.group].grade}" if row.group in verdicts else "")
        for row in groups[:MAX_GROUPS]
    ]
    lines += _rest(len(groups) - MAX_GROUPS, "groups")
    lines += _verdict_lines(verdicts)
    lines += ["", f"{'query':<21}top groups, ? where the first two are too close to call", *queries]
    lines += _rest(tally.queries - MAX_QUERIES, "queries")
    return "\n".join(lines)


def _query_lines(table: ScoreTable, count: int) -> list[str]:
    """The top groups of the first queries, one query a line."""
    scores, stderr = table.matrix()[:count], table.stderr_matrix()[:count]
    decided = margins(scores, stderr) >= UNDECIDED_BELOW
    lines = []
    for query, row, errors, clear in zip(table.queries, scores, stderr, decided.tolist(), strict=False):
        cells = [f"{cut(query, 18):<18}{' ' if clear else '?'}  "]
        for g in row.topk(min(TOP, len(table.groups))).indices.tolist():
            number = with_error(float(row[g]), float(errors[g]))
            cells.append(f"{cut(table.groups[g], 24 - len(number))} {number}".ljust(26))
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


def _rest(count: int, what: str) -> list[str]:
    return [f"… and {count} more {what}"] if count > 0 else []
