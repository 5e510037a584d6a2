"""The sections of a page, in order: each reads what one command left in a run folder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from guda_lightning.report import charts
from guda_lightning.report.audit_section import audit_section_of
from guda_lightning.report.balance_section import balance_section
from guda_lightning.report.curation_section import curation_section
from guda_lightning.report.distribution_section import distribution_section
from guda_lightning.report.ensemble_section import ensemble_section
from guda_lightning.report.pictures import data_uri, svg_uri
from guda_lightning.report.property_section import property_section
from guda_lightning.report.radius_section import radius_section
from guda_lightning.report.recalibrated_section import recalibrated_section_of
from guda_lightning.report.section import Section
from guda_lightning.scores import ScoreTable
from guda_lightning.storage.runs import RunFolder

# Of a run folder and the table that its page shows; None where the command did not run, or on something else.
SECTIONS: tuple[Callable[[RunFolder, ScoreTable], Section | None], ...] = (
    radius_section,
    property_section,
    curation_section,
    balance_section,
    audit_section_of,
    recalibrated_section_of,
    distribution_section,
    ensemble_section,
)

_PICTURE_PIXELS = 96  # longest side, twice what the style sheet shows


def sections_of(run: RunFolder, table: ScoreTable) -> list[Section]:
    """What the commands that ran have found."""
    found = (of(run, table) for of in SECTIONS)
    return [section for section in found if section is not None]


def shown(section: Section) -> dict[str, Any]:
    """A section as the template shows it.

    Raises:
        MissingExtraError: It has a chart, and altair or vl-convert is not installed.
    """
    return {
        "name": section.name,
        "title": section.title,
        "lines": list(section.lines),
        "columns": list(section.columns),
        "rows": list(section.rows),
        "chart": None if section.chart is None else svg_uri(charts.svg(section.chart)),
        "chart_text": section.chart_text,
        "pictures": {
            title: [data_uri(image, _PICTURE_PIXELS) for image in images]
            for title, images in section.pictures.items()
        },
    }
