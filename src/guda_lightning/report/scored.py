"""The score tables of a run folder as JSON values: numbers, unit and worth, as the page says them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from guda_lightning.report.page_data import view_of
from guda_lightning.report.standing import Findings
from guda_lightning.scores import ScoreTable
from guda_lightning.scores.views import views
from guda_lightning.storage.runs import RunFolder

_COMPARED = ("method", "weighting", "seeds", "scores", "stderr", "unattributable")  # words may change


def scored(run: RunFolder) -> list[dict[str, Any]]:
    """All score tables of RUN/scores, with all of their queries; a page may show the first ones alone.

    Raises:
        StoreError: A table, or what was found about it, is damaged.
    """
    return [_table(run, path) for path in sorted(run.scores.glob("*.parquet"))]


def other_scores(
    stored: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]], *, words: bool
) -> list[str]:
    """Where stored scores are not those that a run folder holds, one line each.

    Args:
        stored: As ``scored`` gave them once.
        found: As it gives them today.
        words: Whether to compare the words, too, in which versions may differ.
    """
    before, after = ({one["table"]: one for one in tables} for tables in (stored, found))
    twice = [name for name in before if sum(one["table"] == name for one in stored) > 1]
    problems = [f"scores of {name}: there twice" for name in twice]
    problems += [f"scores of {name}: no such table" for name in before if name not in after]
    problems += [f"scores of {name}: not in the manifest" for name in after if name not in before]
    for name in before.keys() & after.keys():
        if different := _different(before[name], after[name]):
            problems.append(f"scores of {name}: other {', '.join(different)} than in the table")
        elif words and before[name] != after[name]:
            problems.append(f"scores of {name}: other words than this version of guda says")
    return sorted(problems)


def _different(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    names = [name for name in ("record", "queries", "groups") if before[name] != after[name]]
    grades = [{group: one["grade"] for group, one in table["verdicts"].items()} for table in (before, after)]
    names += ["verdicts"] if grades[0] != grades[1] else []
    if len(before["views"]) != len(after["views"]):
        return [*names, "methods or weightings"]
    for one, other in zip(before["views"], after["views"], strict=True):
        names += [name for name in _COMPARED if one.get(name) != other[name]]
        names += ["size claim"] if one["unit"]["sized"] != other["unit"]["sized"] else []
        names += ["worth"] if one["standing"]["level"] != other["standing"]["level"] else []
    return list(dict.fromkeys(names))


def _table(run: RunFolder, path: Path) -> dict[str, Any]:
    table = ScoreTable.load(path)
    findings, of_view = Findings.of(run, table), []
    missed = {} if findings.placebo is None else findings.placebo.missed
    for one in views(table, findings.sizes(table)):
        view = view_of(path.stem, one, findings.standing(table.record, one), missed, table)
        of_view.append({name: value for name, value in view.items() if name not in _ELSEWHERE})
    return {
        "table": path.relative_to(run.root).as_posix(),
        "record": table.record.to_json(),
        "queries": list(table.queries),
        "groups": list(table.groups),
        "views": of_view,
        "verdicts": {
            group: {"grade": verdict.grade, "reason": verdict.reason}
            for group, verdict in table.verdicts.items()
        },
    }


_ELSEWHERE = ("table", "summary", "verdicts")  # in what is around a view here
