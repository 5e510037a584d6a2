"""Which group makes the model unstable: how groups change the law of training, as a section of the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guda_lightning.evaluation.distribution import DistributionEvaluation
from guda_lightning.report import charts
from guda_lightning.report.agreement_table import matching
from guda_lightning.report.distribution_text import (
    SHOWN,
    chance,
    decided,
    floor,
    group_rows,
    lds_rows,
    lds_title,
    title,
)
from guda_lightning.report.section import Section
from guda_lightning.scores import ScoreTable
from guda_lightning.storage.runs import RunFolder

if TYPE_CHECKING:
    import altair as alt


def distribution_section(run: RunFolder, table: ScoreTable) -> Section | None:
    """What ``guda evaluate --distribution`` found, for the method of the page where it was compared."""
    if not run.distribution.is_file():
        return None
    found = DistributionEvaluation.load(run.distribution)
    about, record = found.record, table.record
    compared = about["full_hashes"][0], about["query_hash"], about["grouping_hash"]
    same = compared == (record.full_hash, record.query_hash, record.grouping_hash)
    if not same or not all(_unchanged(run.root / path, hash) for path, hash in about["tables"].items()):
        return None
    return section_of(found, table.methods[0])


def _unchanged(path: Path, hash: str) -> bool:
    """Whether a table that was compared was not scored again since; one that is gone was not."""
    return not path.is_file() or ScoreTable.load_record(path).hash == hash


def section_of(found: DistributionEvaluation, preferred: str) -> Section:
    """The section of one method.

    Args:
        found: What was compared.
        preferred: The method to show; another one where it was not compared.
    """
    method = preferred if preferred in found.methods else found.methods[0]
    weighting = found.record["weightings"][0]
    lines = [decided(found, weighting, method), chance(found, weighting, method)]
    lines += [f"{title(found, weighting)}.", floor(found, weighting)]
    if found.record["lds"]:
        heads, *cells = lds_rows(found, weighting)
        values = "; ".join(
            f"{row[0]}: "
            + ", ".join(f"{head} {cell}" for head, cell in zip(heads[1::2], row[1::2], strict=True))
            for row in cells
        )
        lines.append(f"{lds_title(found).split('; chance')[0]}: {values}.")
    others = [name for name in found.methods if name != method]
    lines += [f"Also: {decided(found, weighting, name)}" for name in others] + found.record["notes"]
    rows = matching(found.of_groups(weighting, method), delta="ratio")
    rows = [row for row in rows if row["low"] > 0 and row["high"] < math.inf]  # on a scale of logarithms
    return Section(
        name="distribution",
        title="Which group makes the model unstable",
        lines=[line for line in lines if line],
        columns=("group", *SHOWN.values(), "trainings with, without"),
        rows=group_rows(found, weighting, method),
        chart=_chart(rows) if rows else None,
        chart_text="ratios of variances with their intervals; below 1: the group is unsettling",
    )


def _chart(rows: Sequence[Mapping[str, Any]]) -> alt.TopLevelMixin:
    """A dot with its interval for each group, the most unstable one on top."""
    charts.require()
    import altair as alt

    ordered = sorted(rows, key=lambda row: float(row["value"]))
    points = [{name: row[name] for name in ("group", "value", "low", "high")} for row in ordered]
    names = [row["group"] for row in ordered]
    ratio, scale = "variance without the group ÷ with it", alt.Scale(type="log")
    base = alt.Chart(alt.InlineData(values=points)).encode(y=alt.Y("group:N", sort=names, title=None))
    one = alt.Chart(alt.InlineData(values=[{"value": 1}])).mark_rule(color=charts.INK, strokeDash=[3, 3])
    chart: alt.TopLevelMixin = alt.layer(
        one.encode(x=alt.X("value:Q", title=ratio, scale=scale)),
        base.mark_rule(color=charts.POSITIVE, strokeWidth=2).encode(
            x=alt.X("low:Q", title=ratio, scale=scale), x2="high:Q"
        ),
        base.mark_point(color=charts.POSITIVE, filled=True, opacity=1, size=70).encode(
            x=alt.X("value:Q", title=ratio, scale=scale)
        ),
    ).properties(
        width=480,
        height=charts.rows_height(len(names)),
        title=alt.TitleParams(
            "Does training vary more with a group, or without it?",
            subtitle="left: the group makes it unstable",
        ),
    )
    return charts.styled(chart)
