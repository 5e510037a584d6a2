"""A score table as plain text for a terminal."""

from __future__ import annotations

from guda_lightning.charts import UNDECIDED_BELOW, group_summaries, margins, with_error
from guda_lightning.scores import ScoreTable

MAX_GROUPS, MAX_QUERIES, TOP = 40, 8, 3


def summary(table: ScoreTable) -> str:
    """Write which groups lead, and the top groups of the first queries, in at most 100 columns.

    A table with several methods, weightings or seeds is summarised one after the other.
    """
    parts = [_one(table.select(method, weighting, seed)) for method, weighting, seed in views(table)]
    return "\n\n".join(parts)


def views(table: ScoreTable) -> list[tuple[str, str, int]]:
    """The combinations of method, weighting and seed that a table holds, in the order of their first row."""
    keys = table.table.group_by(["method", "weighting", "seed"], use_threads=False).aggregate([])
    return [(row["method"], row["weighting"], row["seed"]) for row in keys.to_pylist()]


def _one(table: ScoreTable) -> str:
    scores, stderr = table.matrix(), table.stderr_matrix()
    decided = margins(scores, stderr) >= UNDECIDED_BELOW
    method, weighting, seed = views(table)[0]
    lines = [
        f"{method}, weighting {weighting}, seed {seed}: {len(table.queries)} queries, "
        f"{len(table.groups)} groups, {len(table.queries) - int(decided.sum())} undecided",
        "",
        f"{'group':<40}{'mean score':>26}{'leads':>10}",
    ]
    groups = sorted(group_summaries(table), key=lambda row: -row.mean)
    lines += [
        f"{cut(row.group, 38):<40}{with_error(row.mean, row.stderr):>26}{row.top:>10}"
        for row in groups[:MAX_GROUPS]
    ]
    lines += _rest(len(groups) - MAX_GROUPS, "groups")
    lines += ["", f"{'query':<21}top groups, ? where the first two are too close to call"]
    for query, row, errors, clear in zip(
        table.queries[:MAX_QUERIES], scores, stderr, decided.tolist(), strict=False
    ):
        cells = [f"{cut(query, 18):<18}{' ' if clear else '?'}  "]
        for g in row.topk(min(TOP, len(table.groups))).indices.tolist():
            number = with_error(float(row[g]), float(errors[g]))
            cells.append(f"{cut(table.groups[g], 24 - len(number))} {number}".ljust(26))
        lines.append("".join(cells).rstrip())
    lines += _rest(len(table.queries) - MAX_QUERIES, "queries")
    return "\n".join(lines)


def cut(text: str, width: int) -> str:
    """Shorten a name to a width, with nothing in it that moves the cursor."""
    text = "".join(character if character.isprintable() else "?" for character in text)
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _rest(count: int, what: str) -> list[str]:
    return [f"… and {count} more {what}"] if count > 0 else []
