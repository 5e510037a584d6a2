"""What the terminal and the page both show of an evaluation: its numbers, their chart, and sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from guda_lightning.evaluation.agreement import ORACLE
from guda_lightning.evaluation.result import EVERY, Evaluation
from guda_lightning.report import charts
from guda_lightning.scores.kinds import Ensemble

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

MAIN = ("top1", "ndcg@3")  # shown with intervals
ORACLE_LABEL = "oracle agreement"
Row = Mapping[str, Any]


@dataclass(frozen=True)
class AgreementRow:
    """A method, the oracle's own agreement, or chance.

    Attributes:
        label: What to call it.
        values: Metric to value.
        intervals: Metric to low and high end; empty for chance.
    """

    label: str
    values: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class AgreementTable:
    """Agreement under one weighting.

    Attributes:
        weighting: Name.
        yardstick: What methods were compared with: "other seeds" where there are some, else "all seeds".
        methods: Rows of methods, the best top-1 agreement first.
        oracle: The oracle agreement; None with one seed.
        chance: What ranking at random gives.
    """

    weighting: str
    yardstick: str
    methods: tuple[AgreementRow, ...]
    oracle: AgreementRow | None
    chance: AgreementRow

    @property
    def rows(self) -> tuple[AgreementRow, ...]:
        """Methods and, last, the oracle."""
        return (*self.methods, *([self.oracle] if self.oracle else []))

    @property
    def title(self) -> str:
        """The yardstick in words."""
        if self.yardstick == "all seeds":
            return "agreement with the oracle"
        return "agreement with the mean of the oracle's other seeds, each seed held out in turn"


def agreement_table(evaluation: Evaluation, weighting: str, noise: str = EVERY) -> AgreementTable:
    """The agreement of every method under a weighting and a sharing of noise."""
    rows = matching(evaluation.metrics, weighting=weighting, noise=noise)
    yardstick = "other seeds" if any(row["method"] == ORACLE for row in rows) else "all seeds"
    by_method: dict[str, dict[str, Row]] = {}
    for row in rows:
        if row["yardstick"] == yardstick:
            by_method.setdefault(row["method"], {})[row["metric"]] = row
    chance = {metric: row["chance"] for metric, row in next(iter(by_method.values())).items()}
    oracle = by_method.pop(ORACLE, None)
    methods = [_row(name, found) for name, found in by_method.items()]
    return AgreementTable(
        weighting,
        yardstick,
        tuple(sorted(methods, key=lambda row: -row.values["top1"])),
        None if oracle is None else _row(ORACLE_LABEL, oracle),
        AgreementRow("chance", chance, {}),
    )


def _row(label: str, found: Mapping[str, Row]) -> AgreementRow:
    return AgreementRow(
        label,
        {metric: row["value"] for metric, row in found.items()},
        {metric: (row["low"], row["high"]) for metric, row in found.items()},
    )


def agreement_chart(evaluation: Evaluation, weighting: str) -> alt.HConcatChart:
    """Draw the agreement of every method beside the oracle's own and chance."""
    table = agreement_table(evaluation, weighting)
    return charts.agreement(
        [{"method": row.label, **point} for row in table.methods for point in _points(row)],
        {point.pop("metric"): point for point in _points(table.oracle)} if table.oracle else {},
        {metric: table.chance.values[metric] for metric in MAIN},
        title=f"Agreement with {oracle_name(evaluation, article=True)}, weighting {weighting}",
        subtitle=f"{table.title}, {_interval(evaluation)} intervals",
    )


def _points(row: AgreementRow) -> list[dict[str, Any]]:
    return [
        {"metric": metric, "value": row.values[metric], "low": low, "high": high}
        for metric in MAIN
        for low, high in [row.intervals[metric]]
        if math.isfinite(row.values[metric])
    ]


def share(value: float, digits: int = 3) -> str:
    """Write a share without its leading zero: ``.819``, ``−.031``, ``1.00``."""
    if not math.isfinite(value):
        return "–"
    text = f"{abs(value):.{digits}f}"
    text = text[1:] if text.startswith("0") else text[:-1]
    return f"−{text}" if value < 0 and text.strip(".0") else text


def interval(ends: tuple[float, float]) -> str:
    """Write an interval of shares, ``.76–.87``, or nothing if there is none."""
    if not all(map(math.isfinite, ends)):
        return ""
    return "–".join(share(end, 2) for end in ends)


def oracle_name(evaluation: Evaluation, *, article: bool = False) -> str:
    """What a method was compared with: ``retraining`` or ``ensemble``, or with an article ``an ensemble``."""
    if evaluation.record.get("oracle") != Ensemble.kind:
        return "retraining"
    return "an ensemble" if article else "ensemble"


def header(evaluation: Evaluation) -> str:
    """Say what was compared, and how."""
    record = evaluation.record
    count, scored = len(record["groups"]), record["groups_scored"]
    seeds = ", ".join(map(str, record["oracle_seeds"]))
    seed = "ensemble seed" if oracle_name(evaluation) == "ensemble" else "oracle seed"
    return (
        f"{record['queries']} queries, {count}{f' of {scored}' if scored > count else ''} groups, "
        f"{count_of(len(record['oracle_seeds']), seed)} ({seeds}); scores per {record['per']}; "
        f"{_interval(evaluation)} intervals, {record['resamples']} resamples"
    )


def against_best(evaluation: Evaluation, table: AgreementTable) -> Iterator[tuple[str, dict[str, Row]]]:
    """Every rival of the best method by its label: the comparison for each main metric, best one first."""
    if not table.methods:
        return
    best = table.methods[0].label
    rows = matching(evaluation.comparisons, weighting=table.weighting, noise=EVERY, yardstick=table.yardstick)
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        if row["metric"] not in MAIN or best not in (row["first"], row["second"]):
            continue
        if row["second"] == best:
            row = {
                **row,
                "second": row["first"],
                "difference": -row["difference"],
                "low": -row["high"],
                "high": -row["low"],
                "probability": 1 - row["probability"],
            }
        found.setdefault(row["second"], {})[row["metric"]] = row
    yield from ((row.label, found[row.label]) for row in table.methods[1:])
    if table.oracle is not None:
        yield table.oracle.label, found[ORACLE]


def matching(frame: pd.DataFrame, **values: str) -> list[dict[str, Any]]:
    """The rows that have these values."""
    for column, value in values.items():
        frame = frame[frame[column] == value]
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def _interval(evaluation: Evaluation) -> str:
    return f"{evaluation.record['level']:.0%}".replace("%", " %")


def count_of(number: int, what: str) -> str:
    """Write ``1 group`` or ``2 groups``."""
    return f"{number} {what}{'' if number == 1 else 's'}"
