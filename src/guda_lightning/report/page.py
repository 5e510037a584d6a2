"""The report: one HTML file that answers, with nothing but a browser, which groups made each sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from guda_lightning.errors import ConfigError
from guda_lightning.evaluation.result import Evaluation
from guda_lightning.evaluation.sizes import sizes_of
from guda_lightning.report.agreement_section import agreement_section
from guda_lightning.report.estimand import UNTESTED, tested
from guda_lightning.report.map_pictures import maps_of
from guda_lightning.report.page_data import (
    MAX_THUMBNAILS,
    curve_points,
    groups_of,
    positions,
    queries_of,
    view_of,
)
from guda_lightning.report.page_template import render
from guda_lightning.report.pictures import PIXEL_ART, data_uri, svg_uri
from guda_lightning.report.placebo_section import Placebo
from guda_lightning.report.section import Section
from guda_lightning.report.sections import shown as shown_section
from guda_lightning.report.summary_text import summary
from guda_lightning.report.verdict_section import verdict_section
from guda_lightning.report.without_section import Without
from guda_lightning.report.words import words_of
from guda_lightning.scores import ScoreRecord, ScoreTable
from guda_lightning.scores.maps import GroupMaps
from guda_lightning.scores.summaries import UNDECIDED_BELOW
from guda_lightning.scores.views import Sizes, View, views
from guda_lightning.storage.files import write_atomic
from guda_lightning.types import Queries
from guda_lightning.version import __version__

WITHOUT_PIXELS = 160  # longest side, twice what the style sheet shows


@dataclass(frozen=True, eq=False)
class Page:
    """What a page shows.

    Attributes:
        title: Of the page.
        queries: Pictures of at least the table's queries. The first `MAX_THUMBNAILS` are shown.
        table: Scores. If it holds several weightings or methods, the page lets one switch between them; each
            must score the same queries under the same groups. Of several seeds it shows the mean.
        beside: Tables of other methods about the same queries and groups, to switch to.
        examples: A few training images per group, ``[images, channels, height, width]`` float32 in [-1, 1];
            the first `MAX_EXAMPLES` are shown. May lack groups.
        facts: What the reader should know about the run: models, hashes, seeds, costs.
        curves: Rows ``group``, ``step``, ``own``, ``other``: mean scores of the group's own and of all other
            groups' training images after so many steps of unlearning it. May be empty.
        out_of: Number of queries that were scored, where those of the table are only the first of them.
        agreement: How well methods agree with the oracle, if that was evaluated.
        evaluated: What the agreement calls the scores of a method and seed, where it is about these scores.
        placebo: Which queries random groups explain as well, if that was tested.
        without: What counterfactuals draw from the noise of the queries, if that was drawn.
        maps: Which part of each query came from which group, if the method can tell.
        sections: What other commands found.
    """

    title: str
    queries: Queries
    table: ScoreTable
    beside: Sequence[ScoreTable] = ()
    examples: Mapping[str, Tensor] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    curves: Sequence[Mapping[str, Any]] = ()
    out_of: int = 0
    agreement: Evaluation | None = None
    evaluated: Mapping[tuple[str, int], str] = field(default_factory=dict)
    placebo: Placebo | None = None
    without: Without | None = None
    maps: GroupMaps | None = None
    sections: Sequence[Section] = ()


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
        ConfigError: The table is empty, or its weightings, methods or seeds do not score the same pairs.
        MissingExtraError: jinja2 is not installed, or, for charts, altair or vl-convert.
    """
    table = page.table
    if not len(table):
        raise ConfigError(
            "there is nothing to report",
            found="a score table without rows",
            expected="at least one query and one group",
            fix="score queries with guda attribute",
        )
    sizes = _sizes(page)
    # A part may list its rows in another order than the whole table.
    shown = [
        (one, view.over(table.queries, table.groups))
        for one in (table, *page.beside)
        for view in views(one, sizes)
    ]
    text = render(
        _data(page, shown),
        views=[_words(page, one.record, view) for one, view in shown],
        title=page.title,
        shown=len(table.queries),
        out_of=page.out_of,
        version=__version__,
        facts=page.facts,
        curves=bool(page.curves),
        agreement=None if page.agreement is None else _agreement(page.agreement),
        verdicts=[verdict_section(one) for one in (table, *page.beside) if one.verdicts],
        placebo=[] if page.placebo is None else page.placebo.lines,
        without=None if page.without is None else _without(page.without, table),
        sections=list(map(shown_section, page.sections)),
        undecided_below=f"{UNDECIDED_BELOW:g}",
        thumbnails=MAX_THUMBNAILS,
        hidden_thumbnails=max(0, len(table.queries) - MAX_THUMBNAILS),
        summary=summary(table, sizes),
    )
    path = Path(folder) / "index.html"
    write_atomic(path, text)
    return path


def _sizes(page: Page) -> Sizes:
    """What was measured of the size of the page's scores."""
    found: Sizes = {}
    if page.agreement is not None:
        for (method, seed), name in page.evaluated.items():
            found = {**found, **sizes_of(page.agreement, name, method, seed)}
    return found


def _words(page: Page, record: ScoreRecord, view: View) -> Mapping[str, Any]:
    """What the page says of some scores; of several seeds, the first one's test against retraining."""
    name = page.evaluated.get((view.method, view.seeds[0]))
    told = (
        UNTESTED if page.agreement is None or name is None else tested(page.agreement, name, view.weighting)
    )
    twins = None if page.placebo is None else page.placebo.near_duplicates
    return words_of(record, view, told, twins)


def _data(page: Page, shown: Sequence[tuple[ScoreTable, View]]) -> dict[str, Any]:
    """What the page's script reads."""
    missed = {} if page.placebo is None else page.placebo.missed
    return {
        "undecidedBelow": UNDECIDED_BELOW,
        "pixelated": max(page.queries.images.shape[-2:]) <= PIXEL_ART,
        "groups": groups_of(page.table, page.examples),
        "queries": queries_of(page.table, page.queries),
        "views": [view_of(view, missed if one is page.table else {}, one.verdicts) for one, view in shown],
        "curves": curve_points(page.curves),
        "maps": [] if page.maps is None else maps_of(page.maps, page.table.queries, page.table.groups),
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
