"""Pictures of docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import altair as alt

from guda_lightning.report.charts import INK, NEGATIVE, POSITIVE, png, styled

COLORS = {"elbo": NEGATIVE, "uniform": POSITIVE, "middle": "#7a7a7a"}


def dots(docs: Path, rows: Sequence[Mapping[str, object]], name: str, title: str, subtitle: str) -> None:
    """Draw one dot with its interval per row, one panel per setting and a colour per weighting.

    Args:
        docs: The folder whose folder images it goes into.
        rows: ``setting``, ``recipe``, ``weighting``, ``value``, ``low``, ``high``, ``chance``.
        name: Of the file.
        title: What is shown.
        subtitle: How it was measured.
    """
    panels = []
    for setting in dict.fromkeys(str(row["setting"]) for row in rows):
        values = [dict(row) for row in rows if row["setting"] == setting]
        recipes = list(dict.fromkeys(str(row["recipe"]) for row in values))
        base = alt.Chart(alt.InlineData(values=values)).encode(
            y=alt.Y("recipe:N", sort=recipes, title=None),
            yOffset=alt.YOffset("weighting:N", sort=list(COLORS)),
            color=alt.Color(
                "weighting:N", title=None, scale=alt.Scale(domain=list(COLORS), range=list(COLORS.values()))
            ),
        )
        x = alt.X("value:Q", title=None, scale=alt.Scale(domain=[0, 1]))
        panels.append(
            alt.layer(
                alt.Chart(alt.InlineData(values=values))
                .mark_rule(strokeDash=[3, 3])
                .encode(x="mean(chance):Q"),
                base.mark_rule().encode(x=alt.X("low:Q", title=None), x2="high:Q"),
                base.mark_point(filled=True, size=50, opacity=1).encode(x=x),
            ).properties(width=300, height=28 * len(recipes), title=alt.TitleParams(setting, fontSize=11))
        )
    _save(docs, alt.vconcat(*panels, title=alt.TitleParams(title, subtitle=subtitle)), name)


def lines(
    docs: Path, rows: Sequence[Mapping[str, object]], x: str, name: str, title: str, subtitle: str
) -> None:
    """Draw agreement along a setting, one line with its band per method; a dashed line is the oracle's own.

    Args:
        docs: The folder whose folder images it goes into.
        rows: ``x``, ``method``, ``metric``, ``value``, ``low``, ``high``, ``oracle``.
        x: What the axis ``x`` counts; drawn on a logarithmic scale.
        name: Of the file.
        title: What is shown.
        subtitle: How it was measured.
    """
    axis = alt.X(
        "x:Q", title=x, scale=alt.Scale(type="log"), axis=alt.Axis(values=sorted({row["x"] for row in rows}))
    )
    base = alt.Chart(alt.InlineData(values=[dict(row) for row in rows])).encode(
        x=axis, color=alt.Color("method:N", title=None)
    )
    chart = alt.layer(
        base.mark_area(opacity=0.12).encode(y=alt.Y("low:Q", title="agreement"), y2="high:Q"),
        base.mark_line(point=True).encode(
            y=alt.Y("value:Q", title="agreement", scale=alt.Scale(domain=[0, 1]))
        ),
        base.mark_line(strokeDash=[4, 4], color=INK).encode(
            y=alt.Y("oracle:Q", title="agreement"), color=alt.value(INK)
        ),
    )
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    panels = alt.Facet("metric:N", title=None, sort=sorted(metrics, key=lambda name: name.split()[0]))
    faceted = chart.properties(width=200, height=150).facet(panels, columns=len(COLORS))
    _save(docs, faceted.properties(title=alt.TitleParams(title, subtitle=subtitle)), name)


def costs(docs: Path, rows: Sequence[Mapping[str, object]], name: str, title: str, unit: str) -> None:
    """Draw the agreement of every method against what it costs.

    Args:
        docs: The folder whose folder images it goes into.
        rows: ``data``, ``method``, ``metric``, ``cost``, ``value``, ``low``, ``high``; a row without a cost,
            such as chance, is left out.
        name: Of the file.
        title: What is shown.
        unit: Of the cost.
    """
    panels = []
    for data, metric in dict.fromkeys((str(row["data"]), str(row["metric"])) for row in rows):
        chosen = [dict(row) for row in rows if (row["data"], row["metric"]) == (data, metric)]
        paid = [row for row in chosen if row["cost"]]
        x = alt.X("cost:Q", title=unit, scale=alt.Scale(type="log"))
        y = alt.Y("value:Q", title=metric, scale=alt.Scale(zero=False))
        # Names beside points: a legend of thirty methods has more colours and shapes than can be told apart.
        color = alt.Color("method:N", legend=None)
        base = alt.Chart(alt.InlineData(values=paid)).encode(x=x, color=color)
        layers = alt.layer(
            base.mark_rule(opacity=0.35).encode(y=alt.Y("low:Q", title=metric), y2="high:Q"),
            base.mark_point(filled=True, size=45, opacity=1).encode(y=y),
            base.mark_text(align="left", dx=6, fontSize=9).encode(y=y, text="method:N", color=alt.value(INK)),
        )
        panels.append(layers.properties(width=440, height=320, title=alt.TitleParams(data, fontSize=11)))
    grid = alt.concat(*panels, columns=2)
    _save(
        docs,
        grid.properties(title=alt.TitleParams(title, subtitle="with 95 % intervals")),
        name,
    )


def growth(docs: Path, rows: Sequence[Mapping[str, object]], name: str, title: str, subtitle: str) -> None:
    """Draw core seconds and network evaluations against the number of groups, a line per method.

    Args:
        docs: The folder whose folder images it goes into.
        rows: ``groups``, ``method``, ``core seconds``, ``network evaluations``.
        name: Of the file.
        title: What is shown.
        subtitle: How it was measured.
    """
    numbers = sorted({row["groups"] for row in rows})
    x = alt.X("groups:Q", title="groups", scale=alt.Scale(type="log"), axis=alt.Axis(values=numbers))
    base = alt.Chart(alt.InlineData(values=[dict(row) for row in rows])).mark_line(point=True)
    panels = [
        base.encode(
            x=x,
            y=alt.Y(f"{of}:Q", scale=alt.Scale(type="log"), title=of),
            color=alt.Color("method:N", title=None),
        ).properties(width=240, height=190)
        for of in ("core seconds", "network evaluations")
    ]
    _save(docs, alt.hconcat(*panels, title=alt.TitleParams(title, subtitle=subtitle)), name)


def _save(docs: Path, chart: alt.TopLevelMixin, name: str) -> None:
    images = docs / "images"
    images.mkdir(exist_ok=True)
    (images / f"{name}.png").write_bytes(png(styled(chart)))
