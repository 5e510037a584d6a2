"""The numbers of a page as files for scripts and spreadsheets."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from guda_lightning.report.page import Page, report_of, shown_views
from guda_lightning.storage.files import canonical_json, write_atomic

COLUMNS = (
    *("table", "method", "weighting", "seeds", "query", "group"),
    *("score", "stderr", "unit", "sized", "level"),
)


def write_json(folder: Path, page: Page) -> Path:
    """Write ``report.json``, as docs/page.md describes it; raises as ``shown_views``."""
    path = folder / "report.json"
    write_atomic(path, canonical_json(report_of(page, shown_views(page)), indent=1) + "\n")
    return path


def write_csv(folder: Path, page: Page) -> Path:
    """Write ``report.csv``, a row per view, query and group; raises as ``shown_views``."""
    path, file = folder / "report.csv", io.StringIO(newline="")
    rows = csv.writer(file)
    rows.writerow(COLUMNS)
    report = report_of(page, shown_views(page))
    for view in report["views"]:
        rows.writerows(_rows(report, view))
    write_atomic(path, file.getvalue())
    return path


def _rows(report: Mapping[str, Any], view: Mapping[str, Any]) -> list[list[Any]]:
    about = [view["table"], view["method"], view["weighting"], " ".join(map(str, view["seeds"]))]
    unit = view["unit"]
    worth = [unit["name"], str(unit["sized"]).lower(), view["standing"]["level"]]
    return [
        [*about, query, group, score, error, *worth]
        for query, scores, errors in zip(report["queries"], view["scores"], view["stderr"], strict=True)
        for group, score, error in zip(report["groups"], scores, errors, strict=True)
    ]
