"""The verdicts on counterfactuals, as rows and as a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from guda_lightning.evaluation.validity import tally
from guda_lightning.scores import Grade, ScoreTable, Verdict


class VerdictRow(NamedTuple):
    """One group."""

    group: str
    grade: Grade
    reason: str


def verdict_rows(verdicts: Mapping[str, Verdict]) -> list[VerdictRow]:
    """A row per group, the worst grade first."""
    return [
        VerdictRow(group, grade, verdicts[group].reason)
        for grade, groups in tally(verdicts).items()
        for group in groups
    ]


def verdict_finding(verdicts: Mapping[str, Verdict]) -> str:
    """How many counterfactuals can be believed, in one sentence."""
    counts = {grade: len(groups) for grade, groups in reversed(tally(verdicts).items()) if groups}
    said = ", ".join(f"{count} {grade}" for grade, count in counts.items())
    return f"Verdicts on {len(verdicts)} counterfactuals: {said}."


def verdict_section(table: ScoreTable) -> dict[str, Any]:
    """What the page says of the counterfactuals behind a table."""
    seeds = ", ".join(map(str, table.seeds))
    return {
        "title": f"{', '.join(table.methods)}, seed{'s' if len(table.seeds) > 1 else ''} {seeds}",
        "finding": verdict_finding(table.verdicts),
        "rows": verdict_rows(table.verdicts),
    }
