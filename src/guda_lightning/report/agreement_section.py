"""An evaluation as a section of the page."""

from __future__ import annotations

from typing import Any

from guda_lightning.evaluation.result import Evaluation
from guda_lightning.functional.ranking import METRICS
from guda_lightning.report import charts
from guda_lightning.report.agreement_table import (
    AgreementTable,
    against_best,
    agreement_chart,
    agreement_table,
    header,
    interval,
    share,
)
from guda_lightning.report.agreement_verdicts import notes, verdicts


def agreement_section(evaluation: Evaluation) -> dict[str, Any]:
    """What the page shows: text of every cell, sentences, and a chart as SVG."""
    return {
        "facts": header(evaluation),
        "metrics": list(METRICS),
        "weightings": [
            _section_part(evaluation, agreement_table(evaluation, name)) for name in evaluation.weightings
        ],
        "notes": [*verdicts(evaluation), *notes(evaluation)],
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
        f"P({table.methods[0].label} better than {rival}) = "
        + ", ".join(f"{share(row['probability'], 2)} ({metric})" for metric, row in rows.items())
        for rival, rows in against_best(evaluation, table)
    ]
    return {
        "name": table.weighting,
        "yardstick": table.title,
        "methods": rows[: len(table.methods)],
        "others": rows[len(table.methods) :],
        "better": better,
        "chart": charts.svg(agreement_chart(evaluation, table.weighting)),
    }
