"""What commands log besides scores: tables, charts and pictures, to every logger that can show them."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers import Logger

from guda_lightning.errors import MissingExtraError
from guda_lightning.report import charts
from guda_lightning.report.pictures import picture_of, side_by_side
from guda_lightning.report.section import Section
from guda_lightning.report.sinks import sinks_of
from guda_lightning.types import Queries

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd
    from PIL.Image import Image as Picture


def log_config(loggers: Sequence[Logger], record: Mapping[str, Any]) -> None:
    """Log what something was made from as the configuration of its run, to every logger."""
    for logger in loggers:
        logger.log_hyperparams(dict(record))
        logger.save()


def log_agreement(
    loggers: Sequence[Logger],
    metrics: pd.DataFrame,
    pictures: Mapping[str, alt.TopLevelMixin],
    record: Mapping[str, Any],
) -> None:
    """Log how well methods agree with the oracle: all numbers, and a chart a weighting.

    Args:
        loggers: Where to.
        metrics: The table to log.
        pictures: Weighting to chart.
        record: What was compared, logged as configuration.
    """
    log_config(loggers, record)
    for sink in sinks_of(loggers):
        sink.table("agreement/metrics", metrics.columns.tolist(), metrics.to_numpy().tolist())
    for weighting, picture in pictures.items():
        log_chart(loggers, f"agreement/{weighting}", picture)


def log_placebo(loggers: Sequence[Logger], queries: pd.DataFrame, record: Mapping[str, Any]) -> None:
    """Log which queries can be attributed: all p-values, and the share a weighting.

    Args:
        loggers: Where to.
        queries: One row per weighting and query.
        record: What random groups were compared with, logged as configuration.
    """
    shares = queries.groupby("weighting")["attributable"].mean()
    for logger in loggers:
        logger.log_metrics({f"placebo/attributable/{name}": share for name, share in shares.items()})
    for sink in sinks_of(loggers):
        sink.table("placebo/queries", queries.columns.tolist(), queries.to_numpy().tolist())
    log_config(loggers, record)


def log_without(loggers: Sequence[Logger], columns: Mapping[str, Queries], made: Mapping[str, Any]) -> None:
    """Log what models without groups draw from the noise of the queries, as one picture.

    Args:
        loggers: Where to.
        columns: Title to pictures of the same queries; names of rows from the first.
        made: How they were drawn: ``operator``, ``counterfactual_seed``, ``seed`` and ``steps``.
    """
    caption = (
        f"{made['operator']}, counterfactuals of seed {made['counterfactual_seed']}; the pictures of a row "
        f"come from the same noise, seed {made['seed']}, {made['steps']} steps"
    )
    if sinks := sinks_of(loggers):
        picture = side_by_side(columns)
        for sink in sinks:
            sink.pictures("without/pictures", [picture], [caption])


def log_section(loggers: Sequence[Logger], section: Section, record: Mapping[str, Any]) -> None:
    """Log what a command found: its table, chart and pictures, as the page shows them.

    Args:
        loggers: Where to.
        section: Whose keys are ``NAME/answer``, ``NAME/table``, ``NAME/chart`` and ``NAME/pictures``.
        record: What it was found from, logged as configuration.
    """
    name = section.name
    log_config(loggers, record)
    for sink in sinks_of(loggers):
        sink.table(f"{name}/answer", ["answer"], [[line] for line in section.lines])
        if section.rows:
            sink.table(f"{name}/table", section.columns, section.rows)
        if section.pictures:
            images = [(title, image) for title, row in section.pictures.items() for image in row]
            pictures, titles = [picture_of(image) for _, image in images], [title for title, _ in images]
            sink.pictures(f"{name}/pictures", pictures, titles)
    if section.chart is not None:
        log_chart(loggers, f"{name}/chart", section.chart, section.chart_text)


def log_chart(
    loggers: Sequence[Logger],
    key: str,
    chart: alt.TopLevelMixin,
    caption: str = "",
    step: int | None = None,
) -> None:
    """Log a chart as a picture to every logger that shows pictures.

    Args:
        loggers: Where to.
        key: What it is called.
        chart: Any altair chart.
        caption: What it shows.
        step: Where on the axis of steps; None: nowhere.
    """
    sinks = [sink for sink in sinks_of(loggers) if "pictures" in sink.shows]
    if sinks:
        picture = drawn(chart)
        for sink in sinks:
            sink.pictures(key, [picture], [caption] if caption else (), step)


def drawable() -> bool:
    """Whether charts can be drawn here: tables and thumbnails need no extra, charts do."""
    try:
        charts.require()
    except MissingExtraError:
        return False
    return True


def drawn(chart: alt.TopLevelMixin) -> Picture:
    """A chart as a picture.

    Raises:
        MissingExtraError: altair or vl-convert is not installed.
    """
    from PIL import Image

    return Image.open(io.BytesIO(charts.png(chart)))
