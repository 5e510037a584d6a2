"""Pictures of scores and their agreement, and the few numbers that pictures, pages and summaries all show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor

from guda_lightning.errors import MissingExtraError
from guda_lightning.scores.views import View

if TYPE_CHECKING:
    import altair as alt

_Chart = TypeVar("_Chart", bound="alt.TopLevelMixin")

MAX_HEATMAP_QUERIES = 200  # columns stay wider than a pixel
MAX_CURVE_GROUPS = 24  # small multiples stay readable on one picture
MAX_PICTURE_QUERIES, MAX_PICTURE_GROUPS = 8, 12  # with and without groups: more are not seen at one glance

# Blue against orange stays apart in every common colour blindness and in print.
POSITIVE, NEGATIVE, NEUTRAL, INK = "#2563a8", "#c2571a", "#f4f4f2", "#3f4147"
BAND = "#f0c9a6"


def color_limit(scores: Tensor) -> float:
    """The score at which a heat map's colour is full: nine of ten queries' strongest score is within it.

    A few extreme queries do not bleach the rest, and many weak groups do not darken it.

    Args:
        scores: ``[queries, groups]``.
    """
    strongest = scores.double().abs().amax(dim=1)
    return float(strongest.quantile(0.9) or strongest.max() or 1.0)


def heatmap(view: View) -> alt.Chart:
    """Draw query × group scores of one method and weighting, in the unit that they may claim.

    Blue is positive, orange negative, and full colour starts at `color_limit`. Of a long table the first
    `MAX_HEATMAP_QUERIES` queries are drawn, and the subtitle says so.
    """
    require()
    import altair as alt

    scores = view.scores
    queries = view.queries[:MAX_HEATMAP_QUERIES]
    limit = color_limit(scores)
    rows = [
        {"query": query, "group": group, "score": score}
        for query, line in zip(queries, scores.tolist(), strict=False)
        for group, score in zip(view.groups, line, strict=True)
    ]
    shown = f"the first {len(queries)} of " if len(queries) < len(view.queries) else ""
    few = len(queries) <= 40
    title = alt.TitleParams(
        "Which groups made each sample",
        subtitle=f"{shown}{len(view.queries)} queries; blue is positive, orange negative",
    )
    chart: alt.Chart = (
        alt.Chart(alt.InlineData(values=rows), title=title)
        .mark_rect()
        .encode(
            x=alt.X(
                "query:N", sort=None, title="query", axis=alt.Axis(labels=few, ticks=few, labelAngle=-60)
            ),
            y=alt.Y("group:N", sort=None, title=None),
            color=alt.Color(
                "score:Q",
                title=view.unit.name,
                scale=alt.Scale(
                    domain=[-limit, 0, limit],
                    range=[NEGATIVE, NEUTRAL, POSITIVE],
                    interpolate="rgb",
                    clamp=True,
                ),
            ),
        )
        .properties(width=max(240, min(900, 16 * len(queries))), height=rows_height(len(view.groups)))
    )
    return styled(chart)


def influence_curves(curves: Sequence[Mapping[str, Any]]) -> alt.FacetChart:
    """Draw how each group's influence grew while it was unlearned: on its own images and on all others.

    Of many groups the first `MAX_CURVE_GROUPS` are drawn, and the subtitle says so.

    Args:
        curves: Rows ``group``, ``step`` (optimiser steps taken), ``own`` and ``other`` (mean scores of the
            group's own images and of all other groups' images).
    """
    require()
    import altair as alt

    groups = list(dict.fromkeys(point["group"] for point in curves))
    shown = groups[:MAX_CURVE_GROUPS]
    rows = [
        {"group": point["group"], "step": point["step"], "images": images, "score": score}
        for point in curves
        if point["group"] in shown
        for images, score in (("own", point["own"]), ("other groups'", point["other"]))
    ]
    some = f", the first {len(shown)} of {len(groups)} groups" if len(shown) < len(groups) else ""
    title = alt.TitleParams(
        "Influence while unlearning", subtitle=f"mean score of the group's own images and of all others{some}"
    )
    colors = alt.Scale(domain=["own", "other groups'"], range=[POSITIVE, "#9a9ca3"])
    chart: alt.FacetChart = (
        alt.Chart(alt.InlineData(values=rows))
        .mark_line(point=alt.OverlayMarkDef(size=12))
        .encode(
            x=alt.X("step:Q", title="step", axis=alt.Axis(tickCount=4)),
            y=alt.Y("score:Q", title="score", axis=alt.Axis(tickCount=4)),
            color=alt.Color("images:N", title="images", scale=colors),
        )
        .properties(width=150, height=90)
        .facet(alt.Facet("group:N", title=None, sort=groups), columns=min(4, max(1, len(shown))), title=title)
    )
    return styled(chart)


def agreement(
    rows: Sequence[Mapping[str, Any]],
    oracle: Mapping[str, Mapping[str, float]],
    chance: Mapping[str, float],
    *,
    title: str,
    subtitle: str,
) -> alt.HConcatChart:
    """Draw how well methods agree with the oracle: a dot with its interval, one panel a metric.

    The oracle's own agreement is a band, chance a dashed line.

    Args:
        rows: ``method``, ``metric``, ``value``, ``low`` and ``high``, in the order to draw; may be empty.
        oracle: ``value``, ``low`` and ``high`` of the oracle agreement by metric; may be empty.
        chance: Agreement by chance of every metric to draw.
        title: What is compared.
        subtitle: With what.
    """
    require()
    import altair as alt

    methods = list(dict.fromkeys(row["method"] for row in rows))
    panels = []
    for number, (metric, by_chance) in enumerate(chance.items()):
        x = alt.X("value:Q", title=metric, scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(tickCount=6))
        layers: list[alt.Chart] = []
        if metric in oracle:
            band = alt.Chart(alt.InlineData(values=[dict(oracle[metric])]))
            layers.append(
                band.mark_rect(color=BAND, opacity=0.55).encode(x=alt.X("low:Q", title=metric), x2="high:Q")
            )
            layers.append(band.mark_rule(color=INK).encode(x=x))
        layers.append(
            alt.Chart(alt.InlineData(values=[{"value": by_chance}]))
            .mark_rule(color=INK, strokeDash=[3, 3])
            .encode(x=x)
        )
        axis = alt.Axis() if number == 0 else None  # names once, on the left
        points = alt.InlineData(values=[dict(row) for row in rows if row["metric"] == metric])
        base = alt.Chart(points).encode(y=alt.Y("method:N", sort=methods, title=None, axis=axis))
        layers.append(
            base.mark_rule(color=POSITIVE, strokeWidth=2).encode(x=alt.X("low:Q", title=metric), x2="high:Q")
        )
        layers.append(base.mark_point(color=POSITIVE, filled=True, opacity=1, size=70).encode(x=x))
        panels.append(alt.layer(*layers).properties(width=280, height=rows_height(len(methods))))
    legend = "dots: methods with their intervals; " + ("band: oracle agreement; " if oracle else "")
    heading = alt.TitleParams(title, subtitle=[subtitle, f"{legend}dashed: chance"])
    chart: alt.HConcatChart = alt.hconcat(*panels, title=heading)
    return styled(chart)


def svg(chart: alt.TopLevelMixin) -> str:
    """Render a chart as SVG text, without a browser and without the network.

    Raises:
        MissingExtraError: altair or vl-convert is not installed.
    """
    require()
    import vl_convert

    picture: str = vl_convert.vegalite_to_svg(chart.to_json(), allowed_base_urls=[])
    return picture


def png(chart: alt.TopLevelMixin, scale: float = 2.0) -> bytes:
    """Render a chart as a PNG file, without a browser and without the network.

    Args:
        chart: Any altair chart.
        scale: Pixels per point.

    Raises:
        MissingExtraError: altair or vl-convert is not installed.
    """
    require()
    import vl_convert

    picture: bytes = vl_convert.vegalite_to_png(chart.to_json(), scale=scale, allowed_base_urls=[])
    return picture


def require() -> None:
    """Refuse early what would fail at the first chart.

    Raises:
        MissingExtraError: altair or vl-convert is not installed.
    """
    for module, package in (("altair", "altair"), ("vl_convert", "vl-convert-python")):
        if find_spec(module) is None:
            raise MissingExtraError(package, "report")


def styled(chart: _Chart) -> _Chart:
    """The chart in the one style of all pictures."""
    drawn: _Chart = (
        chart.configure(padding=16, background="white", font="DejaVu Sans, Arial, sans-serif")
        .configure_view(stroke=None)
        .configure_title(anchor="start", fontSize=15, subtitleFontSize=11, subtitleColor="#6b6e76", offset=12)
        .configure_axis(labelColor=INK, titleColor=INK, gridColor="#e8e8e6", domainColor="#c9cace")
    )
    return drawn


def rows_height(count: int) -> int:
    """Height of a chart with so many rows, in points."""
    return max(60, min(1600, 22 * count))
