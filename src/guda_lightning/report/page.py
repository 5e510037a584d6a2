"""The report: one HTML file that answers, with nothing but a browser, which groups made each sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from guda_lightning.errors import ConfigError
from guda_lightning.evaluation.result import Evaluation
from guda_lightning.report.agreement_section import agreement_section
from guda_lightning.report.glossary import GLOSSARY
from guda_lightning.report.map_pictures import maps_of
from guda_lightning.report.nearest import NearestImages
from guda_lightning.report.noise_levels import NoiseLevels
from guda_lightning.report.page_data import (
    MAX_THUMBNAILS,
    curve_points,
    drawn_of,
    groups_of,
    pictures_of,
    positions,
    view_of,
)
from guda_lightning.report.page_template import render
from guda_lightning.report.pictures import PIXEL_ART, data_uri, svg_uri
from guda_lightning.report.section import Section
from guda_lightning.report.sections import shown as shown_section
from guda_lightning.report.standing import Findings, Standing
from guda_lightning.report.summary_text import summary
from guda_lightning.report.text import cut
from guda_lightning.report.verdict_section import verdict_section
from guda_lightning.report.without_section import Without
from guda_lightning.report.words import words_of
from guda_lightning.scores import ScoreTable
from guda_lightning.scores.maps import GroupMaps
from guda_lightning.scores.summaries import UNDECIDED_BELOW
from guda_lightning.scores.views import View, views
from guda_lightning.storage.files import write_atomic
from guda_lightning.types import Queries
from guda_lightning.version import __version__

FORMAT = 1  # of the JSON that docs/page.md describes
PROMPT = 1000  # characters of a prompt that are shown
WITHOUT_PIXELS = 160  # longest side, twice what the style sheet shows


@dataclass(frozen=True, eq=False, kw_only=True)
class PageTable:
    """A score table of a page, with what belongs to it alone.

    Attributes:
        name: What to call it: its file's name without ``.parquet``, or those of all its seeds.
        table: Scores. Each of its weightings and methods can be switched to, and must score the same queries
            under the same groups. Of several seeds the page shows the mean.
        findings: What was found about these scores.
        facts: What the reader should know about how they came about.
        curves: Rows ``group``, ``step``, ``own``, ``other``: mean scores of the group's own and of all other
            groups' training images after so many steps of unlearning it. May be empty.
        without: What its counterfactuals draw from the noise of the queries, if that was drawn.
        maps: Which part of each query came from which group, if the method can tell.
        nearest: The training images of leading groups that look most like the queries, if they were kept.
        levels: At which noise levels the scores come about, if that is known.
    """

    name: str
    table: ScoreTable
    findings: Findings = field(default_factory=Findings)
    facts: Mapping[str, str] = field(default_factory=dict)
    curves: Sequence[Mapping[str, Any]] = ()
    without: Without | None = None
    maps: GroupMaps | None = None
    nearest: NearestImages | None = None
    levels: NoiseLevels | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Page:
    """What a page shows.

    Attributes:
        title: Of the page.
        queries: Pictures of at least the tables' queries. The first `MAX_THUMBNAILS` are shown.
        tables: Score tables of the same queries and groups, the one to begin with first.
        examples: A few training images per group, ``[images, channels, height, width]`` float32 in [-1, 1];
            the first `MAX_EXAMPLES` are shown. May lack groups.
        facts: What the reader should know about what all tables share.
        out_of: Number of queries that were scored, where those of the tables are only the first of them.
        others: Tables of the run that are not on the page, by name: why, and the command that shows each.
        sections: What other commands found.
    """

    title: str
    queries: Queries
    tables: Sequence[PageTable]
    examples: Mapping[str, Tensor] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    out_of: int = 0
    others: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    sections: Sequence[Section] = ()


@dataclass(frozen=True, eq=False)
class Shown:
    """One view of a page: a method under a weighting, of the table at a position."""

    position: int
    of: PageTable
    view: View
    standing: Standing


def shown_views(page: Page) -> list[Shown]:
    """All that a page lets one switch to.

    Raises:
        ConfigError: A table is empty, or weightings, methods, seeds or tables do not score the same pairs.
    """
    first = page.tables[0].table
    if not len(first):
        raise ConfigError(
            "there is nothing to report",
            found="a score table without rows",
            expected="at least one query and one group",
            fix="score queries with guda attribute",
        )
    shown = []
    for position, one in enumerate(page.tables):
        for found in views(one.table, one.findings.sizes(one.table)):
            # A part may list its rows in another order than the whole table.
            view = found.over(first.queries, first.groups)
            shown.append(Shown(position, one, view, one.findings.standing(one.table.record, view)))
    return shown


def report_of(page: Page, shown: Sequence[Shown]) -> dict[str, Any]:
    """All numbers of a page with their verdicts, as JSON values: docs/page.md says what is what."""
    first = page.tables[0].table
    texts = (cut(" ".join(prompt.split()), PROMPT) for prompt in page.queries.prompts or ())
    prompts = dict(zip(page.queries.ids, texts, strict=False))
    return {
        "format": FORMAT,
        "generator": f"guda-lightning {__version__}",
        "title": page.title,
        "out_of": page.out_of or len(first.queries),
        "queries": list(first.queries),
        "prompts": [prompts.get(query) for query in first.queries] if prompts else [],
        "groups": list(first.groups),
        "facts": dict(page.facts),
        "tables": [{"name": one.name, "facts": dict(one.facts)} for one in page.tables],
        "views": [
            view_of(one.of.name, one.view, one.standing, _missed(one.of), one.of.table) for one in shown
        ],
    }


def write_page(folder: str | Path, page: Page) -> Path:
    """Write ``index.html``: one file that loads nothing from the network.

    Args:
        folder: Where to write; made if missing. An existing page is replaced.
        page: What it shows.

    Returns:
        The path of the page.

    Raises:
        QueryError: A scored query has no picture.
        NumericsError: A curve is not finite.
        ConfigError: A table is empty, or weightings, methods, seeds or tables do not score the same pairs.
        MissingExtraError: jinja2 is not installed, or, for charts, altair or vl-convert.
    """
    shown = shown_views(page)
    first, tables = page.tables[0], page.tables
    evaluation = next((one.findings.evaluation for one in tables if one.findings.evaluation), None)
    text = render(
        _data(page, shown),
        views=[{**_words(one), "standing": one.standing, "table": one.of.name} for one in shown],
        title=page.title,
        shown=len(first.table.queries),
        out_of=page.out_of,
        version=__version__,
        facts=page.facts,
        tables=tables,
        others=page.others,
        curves=any(one.curves for one in tables),
        agreement=None if evaluation is None else _agreement(evaluation),
        verdicts=[verdict_section(one.table) if one.table.verdicts else None for one in tables],
        placebos=[[] if one.findings.placebo is None else one.findings.placebo.lines for one in tables],
        withouts=[None if one.without is None else _without(one.without, first.table) for one in tables],
        sections=list(map(shown_section, page.sections)),
        undecided_below=f"{UNDECIDED_BELOW:g}",
        thumbnails=MAX_THUMBNAILS,
        hidden_thumbnails=max(0, len(first.table.queries) - MAX_THUMBNAILS),
        summary=summary(first.table, first.findings),
        glossary=GLOSSARY,
    )
    path = Path(folder) / "index.html"
    write_atomic(path, text)
    return path


def _words(one: Shown) -> Mapping[str, Any]:
    """What the page says of some scores."""
    record, findings = one.of.table.record, one.of.findings
    twins = None if findings.placebo is None else findings.placebo.near_duplicates
    return words_of(record, one.view, one.standing, findings.tested(record, one.view), twins)


def _missed(table: PageTable) -> Mapping[str, frozenset[str]]:
    return {} if table.findings.placebo is None else table.findings.placebo.missed


def _data(page: Page, shown: Sequence[Shown]) -> dict[str, Any]:
    """What the page's script reads: the report, which it also offers for download, and what it draws."""
    first = page.tables[0].table
    return {
        "report": report_of(page, shown),
        "undecidedBelow": UNDECIDED_BELOW,
        "pixelated": max(page.queries.images.shape[-2:]) <= PIXEL_ART,
        "pictures": pictures_of(page.queries, first),
        "examples": groups_of(first, page.examples),
        "views": [drawn_of(one.view, one.position, one.of.levels) for one in shown],
        "tables": [
            {
                "curves": curve_points(one.curves),
                "maps": [] if one.maps is None else maps_of(one.maps, first.queries, first.groups),
                "nearest": None if one.nearest is None else one.nearest.to_page(first.queries, first.groups),
            }
            for one in page.tables
        ],
    }


def _agreement(evaluation: Evaluation) -> dict[str, Any]:
    """The section's text, and its charts as pictures that the page holds."""
    section = agreement_section(evaluation)
    for part in section["weightings"]:
        part["chart"] = svg_uri(part["chart"])
    return section


def _without(without: Without, table: ScoreTable) -> dict[str, Any]:
    """The section's text and pictures, and whose scores say which picture to outline."""
    query, group = (positions(table.queries), positions(table.groups)) if without.scored else ({}, {})
    return {
        "caption": without.caption,
        "scored": without.scored,
        "groups": [(name, group.get(name)) for name in without.groups],
        "measured": bool(without.radii),
        "rows": [
            {
                "name": name,
                "query": query.get(name),
                "full": data_uri(without.full.images[row], WITHOUT_PIXELS),
                "pictures": [data_uri(images[row], WITHOUT_PIXELS) for images in without.groups.values()],
                "moved": [of_group[row] for of_group in without.moved.values()],
                "radius": without.radii[row] if without.radii else None,
            }
            for row, name in enumerate(without.full.ids)
        ],
    }
