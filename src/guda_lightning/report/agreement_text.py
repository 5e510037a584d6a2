"""An evaluation as text for a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from guda_lightning.evaluation.agreement import HALF, ORACLE
from guda_lightning.evaluation.fade import ALL
from guda_lightning.evaluation.result import DISJOINT, EVERY, SHARED, Evaluation
from guda_lightning.functional.ranking import METRICS
from guda_lightning.report.agreement_table import (
    MAIN,
    AgreementRow,
    AgreementTable,
    Row,
    against_best,
    agreement_table,
    count_of,
    header,
    interval,
    matching,
    share,
)
from guda_lightning.report.agreement_verdicts import notes, verdicts
from guda_lightning.report.text import cut, wrapped

NAME = 22


def agreement_text(evaluation: Evaluation) -> str:
    """Write an evaluation in lines of at most 100 columns."""
    parts = ["\n".join(wrapped(header(evaluation)))]
    for weighting in evaluation.weightings:
        table = agreement_table(evaluation, weighting)
        parts.append(f"weighting {weighting}: {table.title}\n\n{_main(table)}")
        parts += [
            part
            for part in (
                _against_all_seeds(evaluation, table),
                _against_half(evaluation, table),
                _better(evaluation, table),
                _magnitudes(evaluation, table),
                _fade(evaluation, table),
                _noise(evaluation, weighting),
                _calibration(evaluation, weighting),
            )
            if part
        ]
    sentences = [*verdicts(evaluation), *notes(evaluation)]
    parts.append("\n".join(line for sentence in sentences for line in wrapped(sentence)))
    return "\n\n".join(parts)


def _main(table: AgreementTable) -> str:
    def cells(row: AgreementRow) -> list[str]:
        found = []
        for metric in METRICS:
            found.append(share(row.values[metric]))
            if metric in MAIN:
                found.append(interval(row.intervals[metric]) if metric in row.intervals else "")
        return [row.label, *found]

    heads = [part for metric in METRICS for part in ((metric, "") if metric in MAIN else (metric,))]
    lines = columns([["method", *heads], *map(cells, (*table.rows, table.chance))], gap=1)
    rule = "-" * max(map(len, lines))
    first = 1 + len(table.methods)
    return "\n".join([*lines[:first], rule, *lines[first:]])


def _against_all_seeds(evaluation: Evaluation, table: AgreementTable) -> str:
    if table.yardstick == "all seeds":
        return ""
    rows = matching(
        evaluation.metrics, weighting=table.weighting, noise=EVERY, yardstick="all seeds", metric="top1"
    )
    if not rows:
        return ""
    rows.sort(key=lambda row: -row["value"])
    found = ", ".join(f"{cut(row['method'], NAME)} {share(row['value'])}" for row in rows)
    seeds = len(evaluation.record["oracle_seeds"])
    return "\n".join(wrapped(f"top1 against the mean of all {seeds} seeds: {found}"))


def _against_half(evaluation: Evaluation, table: AgreementTable) -> str:
    """How far the mean of several seeds can be agreed with."""
    rows = matching(evaluation.metrics, weighting=table.weighting, noise=EVERY, yardstick=HALF, metric="top1")
    if not rows:
        return ""
    rows.sort(key=lambda row: -row["value"])
    found = ", ".join(f"{cut(row['method'], NAME)} {share(row['value'])}" for row in rows)
    half = len(evaluation.record["oracle_seeds"]) // 2
    others = f"where the oracle is the mean of the {half} others"
    return "\n".join(wrapped(f"top1 against the mean of {half} seeds, {others}: {found}"))


def _fade(evaluation: Evaluation, table: AgreementTable) -> str:
    if evaluation.fade is None:
        return ""
    rows = matching(evaluation.fade, weighting=table.weighting, group=ALL)
    if not rows:
        return ""
    unit = "nats" if table.weighting == "elbo" else f"units of {table.weighting}"
    title = (
        "FADE: mean distance of log-likelihoods between counterfactual and retrained model on the queries, "
        f"in {unit}; the full model itself is {_number(rows[0]['full'])} away"
    )
    cells = [
        [
            "another retraining" if row["method"] == ORACLE else row["method"],
            *(_number(row[name]) for name in ("value", "low", "high")),
            share(row["value"] / row["full"]),
        ]
        for row in rows
    ]
    heads = ["FADE", "low", "high", "/ full model's"]
    return "\n".join([*wrapped(title), *columns([["method", *heads], *cells])])


def _better(evaluation: Evaluation, table: AgreementTable) -> str:
    rows = [
        [rival, *(cell for metric in MAIN for cell in _comparison(rows[metric]))]
        for rival, rows in against_best(evaluation, table)
    ]
    if not rows:
        return ""
    title = f"P({cut(table.methods[0].label, 40)} is better), and by how much"
    heads = [part for metric in MAIN for part in (f"{metric}: P", "difference", "")]
    return "\n".join([title, *columns([["than", *heads], *rows])])


def _comparison(row: Row) -> list[str]:
    ends = ", ".join(_signed(row[end], 2) for end in ("low", "high"))
    return [share(row["probability"], 2), _signed(row["difference"]), f"[{ends}]"]


def _magnitudes(evaluation: Evaluation, table: AgreementTable) -> str:
    found = {
        (row["method"], row["pooling"], row["quantity"]): row
        for row in matching(evaluation.magnitudes, weighting=table.weighting, noise=EVERY)
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
    return "\n".join([title, *columns([["method", *heads], *rows])])


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
    return "\n".join([title, *columns([["method", *heads], *rows])])


def _calibration(evaluation: Evaluation, weighting: str) -> str:
    if evaluation.calibration is None:
        return ""
    names = ("scale", "offset", "uncalibrated_error", "error")
    found = matching(evaluation.calibration, weighting=weighting)
    slopes = ("slope", "low", "high")  # an evaluation of before has none
    rows = [
        [
            row["method"],
            *(_number(row[name]) for name in names),
            share(row["r2"]),
            *(_number(row.get(name, math.nan)) for name in slopes),
        ]
        for row in found
    ]
    record = evaluation.record
    fitted = ", ".join(record["calibration_groups"])
    others = len(record["groups"]) - len(record["calibration_groups"])
    title = (
        f"calibration: oracle = scale × score + offset, fitted on {fitted}, tested on the other "
        f"{count_of(others, 'group')}; the order is that on the fitted groups"
    )
    heads = ["scale", "offset", "error before", "after", "R²", *slopes]
    lines = [*wrapped(title), *columns([["method", *heads], *rows])]
    if len(found) > 1:
        lines += wrapped(f"to choose on {fitted}, whatever the other groups say: {_choice(found)}")
    return "\n".join(lines)


def _choice(calibration: Sequence[Row]) -> str:
    """What the calibration groups prefer among methods or settings, each a row, best first."""
    first, *others = calibration
    if not first["preferred"]:
        return "none, the scores of all run against the oracle"
    best, rival = (f"{cut(row['method'], NAME)} (R² {share(row['fitted_r2'])}" for row in (first, others[0]))
    return f"{best} there), before {rival})"


def columns(rows: Sequence[Sequence[str]], gap: int = 2, names: int = NAME) -> list[str]:
    """Lines with a column of names, left and no wider than ``names``, and columns of numbers, right."""
    cells = [[cut(row[0], names), *row[1:]] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        (
            row[0].ljust(widths[0])
            + "".join(" " * gap + cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        ).rstrip()
        for row in cells
    ]


def _signed(value: float, digits: int = 3) -> str:
    text = share(value, digits)
    return text if text.startswith(("−", "–")) else f"+{text}"


def _number(value: float) -> str:
    return f"{value:.3g}".replace("-", "−") if math.isfinite(value) else "–"
