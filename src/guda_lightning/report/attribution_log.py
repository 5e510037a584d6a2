"""What loggers show of a score table: rows with thumbnails, groups, a heat map and curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lightning.pytorch.loggers import Logger

from guda_lightning.data.group_names import beside
from guda_lightning.report import charts
from guda_lightning.report.logged import drawable, log_chart
from guda_lightning.report.pictures import picture_of
from guda_lightning.report.sinks import sink_of, sinks_of
from guda_lightning.report.wandb import wandb_loggers
from guda_lightning.scores import ScoreTable
from guda_lightning.scores.summaries import UNDECIDED_BELOW, group_summaries, margins
from guda_lightning.scores.views import View, views
from guda_lightning.storage.files import sha256_json
from guda_lightning.types import Queries

KEYS = ("scores", "groups", "heatmap", "curves")  # of what `log_attribution` logs, behind its prefix
BEFORE = ("query", "image", "source group", "top group", "margin", "undecided")  # the columns of scores
BEHIND = ("method", "weighting", "unit")
OF_GROUPS = ("group", "mean score", "±", "queries led", "verdict", "reason", *BEHIND)


@dataclass(frozen=True, kw_only=True, eq=False)
class Attribution:
    """A score table with what people want to see beside its numbers.

    Attributes:
        table: Scores, of which the first method and weighting are shown, in the unit that they may claim.
        queries: The pictures of its queries, in any order.
        groups: Which group each of these queries belongs to itself; None where nobody knows.
        titles: What people call them; left out, their ids.
        curves: Rows ``group, step, own, other`` of the influence while unlearning; may be empty.
    """

    table: ScoreTable
    queries: Queries
    groups: Sequence[str | None]
    titles: Sequence[str] = ()
    curves: Sequence[Mapping[str, Any]] = ()

    @property
    def view(self) -> View:
        """What is shown of the table, its rows named for people."""
        view = views(self.table)[0]
        titles = dict(zip(self.queries.ids, self.titles, strict=False))
        return replace(view, queries=tuple(titles.get(query, query) for query in view.queries))

    @property
    def columns(self) -> list[str]:
        """Titles of the table of queries; a group's scores have its name, their errors ``GROUP ±``."""
        groups = self.table.groups
        taken = [*BEFORE, *BEHIND, *(f"{group} ±" for group in groups)]
        names = [beside(group, taken) for group in groups]
        return [*BEFORE, *(title for name in names for title in (name, f"{name} ±")), *BEHIND]

    def rows(self) -> list[list[Any]]:
        """The table of queries."""
        view, position = self.view, {query: row for row, query in enumerate(self.queries.ids)}
        places = [position[query] for query in self.table.queries]
        scores, stderr = view.scores, view.stderr
        ends = (view.method, view.weighting, view.unit.name)
        leads = margins(scores, stderr).tolist()
        rows = zip(view.queries, places, scores.tolist(), stderr.tolist(), leads, strict=True)
        return [
            [
                query,
                picture_of(self.queries.images[place]),
                self.groups[place],
                view.groups[max(range(len(of_query)), key=of_query.__getitem__)],
                lead if math.isfinite(lead) else None,
                lead < UNDECIDED_BELOW,
                *(number for pair in zip(of_query, errors, strict=True) for number in pair),
                *ends,
            ]
            for query, place, of_query, errors, lead in rows
        ]

    def group_rows(self) -> list[list[Any]]:
        """The table of groups: mean scores over the queries, and what is thought of each counterfactual."""
        view, verdicts = self.view, self.table.verdicts
        judged = {group: (verdict.grade, verdict.reason) for group, verdict in verdicts.items()}
        return [
            [
                *(one.group, one.mean, one.stderr, one.top, *judged.get(one.group, (None, None))),
                *(view.method, view.weighting, view.unit.name),
            ]
            for one in group_summaries(view)
        ]

    def config(self) -> dict[str, Any]:
        """What the scores were made from, and how, for the configuration of a run."""
        view, record = self.view, self.table.record
        weights = sorted(record.details.weights)
        return {
            **record.to_json(),
            "method": view.method,
            "weighting": view.weighting,
            "unit": view.unit.name,
            "counterfactual_seeds": list(view.seeds),
            "draws": max(self.table.table["n_draws"].to_pylist()),
            "queries": len(view.queries),
            **({"store_hash": sha256_json(weights)} if weights else {}),
        }


def log_attribution(
    loggers: Sequence[Logger], shown: Attribution, prefix: str, step: int | None = None
) -> None:
    """Log scores to every logger that shows tables or pictures.

    Args:
        loggers: The trainer's loggers; those that show numbers alone are left alone.
        shown: The scores.
        prefix: Before every key, e.g. ``"influence"``; the rest is one of ``KEYS``.
        step: Where to put them on Lightning's axis ``trainer/global_step``; None puts them nowhere.
    """
    sinks = sinks_of(loggers)
    if not sinks:
        return
    rows, groups = shown.rows(), shown.group_rows()
    for sink in sinks:
        sink.table(f"{prefix}/scores", shown.columns, rows, step=step)
        sink.table(f"{prefix}/groups", OF_GROUPS, groups, step=step)
    if drawable():
        log_chart(loggers, f"{prefix}/heatmap", charts.heatmap(shown.view), step=step)
        if shown.curves:
            log_chart(loggers, f"{prefix}/curves", charts.influence_curves(shown.curves), step=step)


def not_shown(loggers: Sequence[Logger]) -> str | None:
    """What of an attribution none of these loggers shows, in words; None: nothing, or there is no logger.

    Args:
        loggers: The trainer's loggers.
    """
    sinks = sinks_of(loggers)
    shown = {what for sink in sinks for what in sink.shows}
    charts_missing = "pictures" in shown and not drawable()
    if not loggers or (len(shown) == 2 and not charts_missing):
        return None
    names = sorted({type(logger).__name__ for logger in loggers if sink_of(logger) or not sinks})
    s = "" if len(names) > 1 else "s"
    if not shown:
        alone = "mean scores alone; a WandbLogger also shows tables and pictures"
    elif charts_missing:
        alone = 'no heat map and no curves before pip install "guda-lightning[report]"'
    elif "tables" in shown:
        alone = "tables, no pictures; a WandbLogger or TensorBoardLogger also shows these"
    else:
        alone = "pictures, no tables; a WandbLogger or CSVLogger also shows these"
    return f"{', '.join(names)} show{s} {alone}, and the callback's `table` holds all scores"


def require_charts(loggers: Sequence[Logger]) -> None:
    """Refuse before the work what W&B would lack after it; TensorBoard shows the rest without charts.

    Raises:
        MissingExtraError: There is a W&B logger, and altair or vl-convert is not installed.
    """
    if wandb_loggers(loggers):
        charts.require()
