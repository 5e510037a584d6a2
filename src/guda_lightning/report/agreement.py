"""An evaluation as text for a terminal, as a chart, and as a section of the page."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from guda_lightning import charts
from guda_lightning.evaluation.agreement import ORACLE
from guda_lightning.functional.ranking import METRICS
from guda_lightning.report.evaluation import Evaluation
from guda_lightning.report.summary import cut

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

EVERY, SHARED, DISJOINT = "all draws", "shared draw", "disjoint draws"  # what method and oracle are scored on
WIDTH, NAME = 100, 22
MAIN = ("top1", "ndcg@3")  # shown with intervals
ORACLE_LABEL = "oracle agreement"
NO_UPPER_BOUND = (
    "Oracle agreement is no upper bound: a method with less noise of its own can agree better with an oracle "
    "than the oracle's seeds agree with each other."
)
ONE_SEED = "The oracle's own agreement needs a second seed: guda retrain -c ... --seeds 0,1."
_Row = Mapping[str, Any]


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


def agreement_table(evaluation: Evaluation, weighting: str, noise: str = EVERY) -> AgreementTable:
    """The agreement of every method under a weighting and a sharing of noise."""
    rows = _rows(evaluation.metrics, weighting=weighting, noise=noise)
    yardstick = "other seeds" if any(row["method"] == ORACLE for row in rows) else "all seeds"
    by_method: dict[str, dict[str, _Row]] = {}
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


def _row(label: str, found: Mapping[str, _Row]) -> AgreementRow:
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
        title=f"Agreement with retraining, weighting {weighting}",
        subtitle=f"{_yardstick(table)}, {_interval(evaluation)} intervals",
    )


def _points(row: AgreementRow) -> list[dict[str, Any]]:
    return [
        {"metric": metric, "value": row.values[metric], "low": low, "high": high}
        for metric in MAIN
        for low, high in [row.intervals[metric]]
    ]


def agreement_text(evaluation: Evaluation) -> str:
    """Write an evaluation in lines of at most 100 columns."""
    parts = ["\n".join(_wrapped(_header(evaluation)))]
    for weighting in evaluation.weightings:
        table = agreement_table(evaluation, weighting)
        parts.append(f"weighting {weighting}: {_yardstick(table)}\n\n{_main(table)}")
        parts += [
            part
            for part in (
                _against_all_seeds(evaluation, table),
                _better(evaluation, table),
                _magnitudes(evaluation, table),
                _noise(evaluation, weighting),
                _calibration(evaluation, weighting),
            )
            if part
        ]
    parts.append("\n".join(line for note in _notes(evaluation) for line in _wrapped(note)))
    return "\n\n".join(parts)


def _notes(evaluation: Evaluation) -> list[str]:
    several = len(evaluation.record["oracles"]) > 1
    return [*evaluation.record["notes"], *_preferred(evaluation), NO_UPPER_BOUND if several else ONE_SEED]


def _preferred(evaluation: Evaluation) -> list[str]:
    """The weighting to choose: under another one, even retraining does not say the same twice."""
    agreed = evaluation.oracle_agreement
    if len(agreed) < 2:
        return []
    first, *others = evaluation.weightings
    oracle = agreement_table(evaluation, first).oracle
    if oracle is None or oracle.intervals["top1"][0] <= max(agreed[name] for name in others):
        return []  # no weighting is clearly better
    rest = ", ".join(f"{share(agreed[name])} under {name}" for name in others)
    return [
        f"Choose weighting {first} here: retraining repeats its own top group best under it "
        f"({share(agreed[first])}, {rest})."
    ]


def agreement_section(evaluation: Evaluation) -> dict[str, Any]:
    """What the page shows: text of every cell, sentences, and a chart as SVG."""
    return {
        "facts": _header(evaluation),
        "metrics": list(METRICS),
        "weightings": [
            _section_part(evaluation, agreement_table(evaluation, name)) for name in evaluation.weightings
        ],
        "notes": _notes(evaluation),
    }


def _section_part(evaluation: Evaluation, table: AgreementTable) -> dict[str, Any]:
    rows = [
        {
            "label": row.label,
            "cells": [
                (share(row.values[metric]), interval(row.intervals[metric]) if row.intervals else "")
                for metric in METRICS
            ],
        }
        for row in (*table.rows, table.chance)
    ]
    better = [
        f"P({table.methods[0].label} better than {_rival(rival)}) = "
        + ", ".join(f"{share(row['probability'], 2)} ({metric})" for metric, row in rows.items())
        for rival, rows in _against_best(evaluation, table)
    ]
    return {
        "name": table.weighting,
        "yardstick": _yardstick(table),
        "methods": rows[: len(table.methods)],
        "others": rows[len(table.methods) :],
        "better": better,
        "chart": charts.svg(agreement_chart(evaluation, table.weighting)),
    }


def share(value: float, digits: int = 3) -> str:
    """Write a share without its leading zero: ``.819``, ``−.031``, ``1.00``."""
    if not math.isfinite(value):
        return "–"
    text = f"{abs(value):.{digits}f}"
    text = text[1:] if text.startswith("0") else text[:-1]
    return f"−{text}" if value < 0 and text.strip(".0") else text


def interval(ends: tuple[float, float]) -> str:
    """Write an interval of shares: ``.76–.87``."""
    return "–".join(share(end, 2) for end in ends)


def _header(evaluation: Evaluation) -> str:
    record = evaluation.record
    count, scored = len(record["groups"]), record["groups_scored"]
    seeds = ", ".join(map(str, record["oracle_seeds"]))
    return (
        f"{record['queries']} queries, {count}{f' of {scored}' if scored > count else ''} groups, "
        f"{_count(len(record['oracle_seeds']), 'oracle seed')} ({seeds}); scores per {record['per']}; "
        f"{_interval(evaluation)} intervals, {record['resamples']} resamples"
    )


def _yardstick(table: AgreementTable) -> str:
    if table.yardstick == "all seeds":
        return "agreement with the oracle"
    return "agreement with the mean of the oracle's other seeds, each seed held out in turn"


def _main(table: AgreementTable) -> str:
    def cells(row: AgreementRow) -> list[str]:
        found = []
        for metric in METRICS:
            found.append(share(row.values[metric]))
            if metric in MAIN:
                found.append(interval(row.intervals[metric]) if metric in row.intervals else "")
        return [row.label, *found]

    heads = [part for metric in METRICS for part in ((metric, "") if metric in MAIN else (metric,))]
    lines = _columns([["method", *heads], *map(cells, (*table.rows, table.chance))], gap=1)
    rule = "-" * max(map(len, lines))
    first = 1 + len(table.methods)
    return "\n".join([*lines[:first], rule, *lines[first:]])


def _against_all_seeds(evaluation: Evaluation, table: AgreementTable) -> str:
    if table.yardstick == "all seeds":
        return ""
    rows = _rows(
        evaluation.metrics, weighting=table.weighting, noise=EVERY, yardstick="all seeds", metric="top1"
    )
    if not rows:
        return ""
    rows.sort(key=lambda row: -row["value"])
    found = ", ".join(f"{cut(row['method'], NAME)} {share(row['value'])}" for row in rows)
    seeds = len(evaluation.record["oracle_seeds"])
    return "\n".join(_wrapped(f"top1 against the mean of all {seeds} seeds: {found}"))


def _against_best(evaluation: Evaluation, table: AgreementTable) -> Iterator[tuple[str, dict[str, _Row]]]:
    """Every rival of the best method with the comparison for each main metric, the best method first."""
    if not table.methods:
        return
    best = table.methods[0].label
    rows = _rows(evaluation.comparisons, weighting=table.weighting, noise=EVERY, yardstick=table.yardstick)
    found: dict[str, dict[str, _Row]] = {}
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
    rivals = [row.label for row in table.methods[1:]] + [ORACLE] * (table.oracle is not None)
    yield from ((rival, found[rival]) for rival in rivals)


def _better(evaluation: Evaluation, table: AgreementTable) -> str:
    rows = [
        [_rival(rival), *(cell for metric in MAIN for cell in _comparison(rows[metric]))]
        for rival, rows in _against_best(evaluation, table)
    ]
    if not rows:
        return ""
    title = f"P({cut(table.methods[0].label, 40)} is better), and by how much"
    heads = [part for metric in MAIN for part in (f"{metric}: P", "difference", "")]
    return "\n".join([title, *_columns([["than", *heads], *rows])])


def _comparison(row: _Row) -> list[str]:
    ends = ", ".join(_signed(row[end], 2) for end in ("low", "high"))
    return [share(row["probability"], 2), _signed(row["difference"]), f"[{ends}]"]


def _magnitudes(evaluation: Evaluation, table: AgreementTable) -> str:
    found = {
        (row["method"], row["pooling"], row["quantity"]): row
        for row in _rows(evaluation.magnitudes, weighting=table.weighting, noise=EVERY)
    }
    if not found:
        return ""

    def cells(method: str) -> list[str]:
        slope = found.get((method, "all", "slope"))
        numbers = [slope[name] for name in ("value", "low", "high")] if slope else []
        shares = [
            found.get((method, pooling, quantity), {"value": math.nan})["value"]
            for quantity, pooling in (
                *(("r2", pooling) for pooling in ("all", "within", "across")),
                *(("sign_agreement", pooling) for pooling in ("all", "within")),
            )
        ]
        return [method, *(_number(number) for number in numbers or [math.nan] * 3), *map(share, shares)]

    heads = ["slope", "low", "high", "R² all", "within", "across", "sign all", "within"]
    title = "magnitudes: oracle = slope × score + offset over queries × groups, within and across queries"
    rows = [cells(row.label) for row in table.methods]
    return "\n".join([title, *_columns([["method", *heads], *rows])])


def _noise(evaluation: Evaluation, weighting: str) -> str:
    if DISJOINT not in set(evaluation.metrics["noise"]):
        return ""
    shared, disjoint = (agreement_table(evaluation, weighting, noise) for noise in (SHARED, DISJOINT))
    apart = {row.label: row for row in disjoint.rows}
    rows = []
    for row in shared.rows:
        cells = [row.label]
        for metric in MAIN:
            values = row.values[metric], apart[row.label].values[metric]
            cells += [share(values[0]), share(values[1]), _signed(values[0] - values[1])]
        rows.append(cells)
    heads = [part for metric in MAIN for part in (f"{metric} shared", "disjoint", "hidden")]
    title = "what shared noise hides: agreement on one draw for both sides, less that on a draw for each"
    return "\n".join([title, *_columns([["method", *heads], *rows])])


def _calibration(evaluation: Evaluation, weighting: str) -> str:
    if evaluation.calibration is None:
        return ""
    names = ("scale", "offset", "uncalibrated_error", "error")
    rows = [
        [row["method"], *(_number(row[name]) for name in names), share(row["r2"])]
        for row in _rows(evaluation.calibration, weighting=weighting)
    ]
    record = evaluation.record
    fitted = ", ".join(record["calibration_groups"])
    others = len(record["groups"]) - len(record["calibration_groups"])
    title = (
        f"calibration: oracle = scale × score + offset, fitted on {fitted}, tested on the other "
        f"{_count(others, 'group')}; the order is that on the fitted groups"
    )
    heads = ["scale", "offset", "error before", "after", "R²"]
    return "\n".join([*_wrapped(title), *_columns([["method", *heads], *rows])])


def _rows(frame: pd.DataFrame, **values: str) -> list[dict[str, Any]]:
    """The rows that have these values."""
    for column, value in values.items():
        frame = frame[frame[column] == value]
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def _columns(rows: Sequence[Sequence[str]], gap: int = 2) -> list[str]:
    """Lines with a column of names, left, and columns of numbers, right."""
    cells = [[cut(row[0], NAME), *row[1:]] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        (
            row[0].ljust(widths[0])
            + "".join(" " * gap + cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        ).rstrip()
        for row in cells
    ]


def _wrapped(text: str) -> list[str]:
    printable = "".join(character if character.isprintable() else "?" for character in text)
    return textwrap.wrap(printable, WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def _rival(method: str) -> str:
    return ORACLE_LABEL if method == ORACLE else method


def _interval(evaluation: Evaluation) -> str:
    return f"{evaluation.record['level']:.0%}".replace("%", " %")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _signed(value: float, digits: int = 3) -> str:
    text = share(value, digits)
    return text if text.startswith(("−", "–")) else f"+{text}"


def _number(value: float) -> str:
    return f"{value:.3g}".replace("-", "−") if math.isfinite(value) else "–"
