"""What may be said of scores that stopped early: a race decides which groups lead, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd

from guda_lightning.functional.ranking import METRICS
from guda_lightning.scores import ScoreTable
from guda_lightning.scores.kinds import Race

_LEADING = {"top1": 1, "ndcg@3": 3, "ndcg@5": 5}  # how many leading groups a measure looks at
_NUMBERS = ["value", "difference", "low", "high", "probability"]


def race_of(table: ScoreTable) -> int | None:
    """The number of leading groups that a table's scores were a race for; None if they were none."""
    details = table.record.details
    return details.top if isinstance(details, Race) else None


def decided_metrics(top: int) -> list[str]:
    """The measures that depend on the leading groups alone."""
    return [metric for metric in METRICS if _LEADING.get(metric, math.inf) <= top]


def only_decided(frame: pd.DataFrame, races: Mapping[str, int]) -> pd.DataFrame:
    """A frame of ``Agreement`` with NaN for what a race left open; magnitudes of races have no rows.

    Args:
        frame: Its ``metrics``, ``comparisons`` or ``magnitudes``.
        races: How many leading groups a method was a race for, by the method's name.
    """
    frame = frame.copy()
    names = [column for column in ("method", "first", "second") if column in frame]
    for method, top in races.items():
        of_race = (frame[names] == method).any(axis=1)
        if "metric" not in frame:
            frame = frame[~of_race]
            continue
        undecided = of_race & ~frame["metric"].isin(decided_metrics(top))
        frame.loc[undecided, [column for column in _NUMBERS if column in frame]] = float("nan")
    return frame.reset_index(drop=True)


def race_note(method: str, top: int) -> str:
    """Why an evaluation leaves measures of a race out."""
    return (
        f"{method} is a race for the top {top} of each query: other groups got no more evaluations "
        f"once they could not lead, so that it is judged by {' and '.join(decided_metrics(top))} alone. Its "
        "other ranks, and the size of its scores, mean nothing: score with attribute/elbo.yaml to compare "
        "those."
    )
