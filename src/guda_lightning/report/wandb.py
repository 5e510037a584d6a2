"""Everything that touches W&B."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lightning.pytorch.loggers import Logger

from guda_lightning import compat
from guda_lightning.data.group_names import beside
from guda_lightning.report import charts
from guda_lightning.report.pictures import picture_of, side_by_side
from guda_lightning.report.section import Section
from guda_lightning.scores import ScoreTable
from guda_lightning.scores.views import views
from guda_lightning.types import Queries

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd
    from lightning.pytorch.loggers import WandbLogger


def wandb_loggers(loggers: Sequence[Logger]) -> list[WandbLogger]:
    """Those loggers that are W&B's, of either of Lightning's packages."""
    return [cast("WandbLogger", logger) for logger in loggers if compat.is_lightning(logger, "WandbLogger")]


def not_shown(loggers: Sequence[Logger]) -> str | None:
    """What of an attribution some loggers do not show, in words; None: nothing.

    Args:
        loggers: The trainer's loggers.
    """
    shown = set(map(id, wandb_loggers(loggers)))
    others = sorted({type(logger).__name__ for logger in loggers if id(logger) not in shown})
    if not others:
        return None
    alone = f"{', '.join(others)} show{'' if len(others) > 1 else 's'} mean scores alone"
    return (
        f"{alone}; a WandbLogger also shows tables and pictures, and the callback's `table` holds all scores"
    )


KEYS = ("scores", "verdicts", "heatmap", "curves")  # of what `log_attribution` logs, behind its prefix


def stage_loggers(loggers: Sequence[Logger], group: str, stage: str, name: str) -> list[Logger]:
    """Fresh copies of unused loggers for one stage: in W&B one group a run folder, one run a stage and group.

    Args:
        loggers: The user's loggers, as configured.
        group: W&B group, where the user named none.
        stage: W&B job type, where the user named none.
        name: W&B run name, where the user named none.
    """
    fresh = [compat.copy_of_logger(logger) for logger in loggers]
    for logger in wandb_loggers(fresh):
        # W&B reads WANDB_RUN_GROUP once a process, and WandbLogger offers nothing after construction.
        configured = compat.wandb_arguments(logger)
        defaults = {"group": group, "job_type": stage, "name": name, "settings": _settings(logger)}
        if not isinstance(configured.get("anonymous"), str):
            configured.pop("anonymous", None)  # W&B warns of it, whatever it is
        configured.update({key: value for key, value in defaults.items() if not configured.get(key)})
    return fresh


def project_loggers(project: str, folder: Path, group: str, stage: str, name: str) -> list[Logger]:
    """The W&B logger of a command without a trainer, offline unless ``WANDB_MODE`` says otherwise.

    Args:
        project: W&B project.
        folder: Where it keeps what is logged offline.
        group: As those of ``stage_loggers``, like the others.
        stage: W&B job type.
        name: W&B run name.
    """
    from lightning.pytorch.loggers import WandbLogger

    offline = os.environ.get("WANDB_MODE", "offline") == "offline"
    logger = WandbLogger(project=project, save_dir=folder, offline=offline)
    return stage_loggers([logger], group, stage, name)


def _settings(logger: WandbLogger) -> Any:
    """Offline runs have no address to print, and a stage makes one for every group."""
    import wandb

    return wandb.Settings(silent=True) if compat.is_offline(logger) else None


@contextmanager
def closing_runs() -> Iterator[None]:
    """End the W&B run that a stage began, so that the next stage gets its own; leave a user's run open."""
    import wandb

    before = wandb.run
    try:
        yield
    finally:
        if before is None and wandb.run is not None:
            wandb.finish()


def require_charts(loggers: Sequence[Logger]) -> None:
    """Refuse before the work what `log_attribution` would refuse after it.

    Raises:
        MissingExtraError: There is a W&B logger, and altair or vl-convert is not installed.
    """
    if wandb_loggers(loggers):
        charts.require()


def log_attribution(
    loggers: Sequence[Logger],
    table: ScoreTable,
    queries: Queries,
    curves: Sequence[Mapping[str, Any]],
    prefix: str,
    step: int | None = None,
) -> None:
    """Log a score table to every W&B logger: rows with thumbnails, verdicts, a heat map and curves.

    Args:
        loggers: The trainer's loggers; others than W&B are left alone.
        table: Scores, of which the first method and weighting are shown, in the unit that they may claim.
        queries: The scored queries.
        curves: Rows ``group, step, own, other`` of the influence so far; may be empty.
        prefix: Before every key, e.g. ``"influence"``; the rest is one of ``KEYS``.
        step: Where to put them on Lightning's axis ``trainer/global_step``; None puts them nowhere.
    """
    shown = wandb_loggers(loggers)
    if not shown:
        return
    import wandb

    channels = queries.images.shape[1]
    caption = None if channels in (1, 3) else f"{channels} channels, side by side"
    position = {query: row for row, query in enumerate(queries.ids)}
    view = views(table)[0]
    groups, unit = view.groups, view.unit.name
    rows = [
        [
            query,
            wandb.Image(picture_of(queries.images[position[query]]), caption=caption),
            groups[int(row.argmax())],
            unit,
            *row.tolist(),
        ]
        for query, row in zip(view.queries, view.scores, strict=True)
    ]
    words = ["query", "image", "top group", "unit"]
    titles = [*words, *(beside(group, words) for group in groups)]
    pictures = {"heatmap": _picture(charts.heatmap(view))}
    if curves:
        pictures["curves"] = _picture(charts.influence_curves(list(curves)))
    judged = [[group, verdict.grade, verdict.reason] for group, verdict in table.verdicts.items()]
    for logger in shown:
        logger.log_table(f"{prefix}/scores", columns=titles, data=rows, step=step)
        if judged:
            logger.log_table(
                f"{prefix}/verdicts", columns=["group", "verdict", "reason"], data=judged, step=step
            )
        for name, picture in pictures.items():
            logger.log_image(f"{prefix}/{name}", [picture], step=step)


def log_agreement(
    loggers: Sequence[Logger],
    metrics: pd.DataFrame,
    pictures: Mapping[str, alt.TopLevelMixin],
    record: Mapping[str, Any],
) -> None:
    """Log how well methods agree with the oracle to every W&B logger: all numbers, and a chart a weighting.

    Args:
        loggers: Others than W&B are left alone.
        metrics: The table to log.
        pictures: Weighting to chart.
        record: What was compared, logged as configuration.
    """
    for logger in wandb_loggers(loggers):
        logger.log_hyperparams(dict(record))
        logger.log_table("agreement/metrics", dataframe=metrics)
        for weighting, picture in pictures.items():
            logger.log_image(f"agreement/{weighting}", [_picture(picture)])


def log_placebo(loggers: Sequence[Logger], queries: pd.DataFrame, record: Mapping[str, Any]) -> None:
    """Log which queries can be attributed to every W&B logger: all p-values, and the share a weighting.

    Args:
        loggers: Others than W&B are left alone.
        queries: One row per weighting and query.
        record: What random groups were compared with, logged as configuration.
    """
    shares = queries.groupby("weighting")["attributable"].mean()
    for logger in wandb_loggers(loggers):
        logger.log_hyperparams(dict(record))
        logger.log_table("placebo/queries", dataframe=queries)
        logger.log_metrics({f"placebo/attributable/{name}": share for name, share in shares.items()})


def log_without(loggers: Sequence[Logger], columns: Mapping[str, Queries], made: Mapping[str, Any]) -> None:
    """Log what models without groups draw from the noise of the queries, as one picture, to every W&B logger.

    Args:
        loggers: Others than W&B are left alone.
        columns: Title to pictures of the same queries; names of rows from the first.
        made: How they were drawn: ``operator``, ``counterfactual_seed``, ``seed`` and ``steps``.
    """
    caption = (
        f"{made['operator']}, counterfactuals of seed {made['counterfactual_seed']}; the pictures of a row "
        f"come from the same noise, seed {made['seed']}, {made['steps']} steps"
    )
    for logger in wandb_loggers(loggers):
        logger.log_image("without/pictures", [side_by_side(columns)], caption=[caption])


def log_section(loggers: Sequence[Logger], section: Section, record: Mapping[str, Any]) -> None:
    """Log what a command found to every W&B logger: its table, chart and pictures, as the page shows them.

    Args:
        loggers: Others than W&B are left alone.
        section: Whose keys are ``NAME/answer``, ``NAME/table``, ``NAME/chart`` and ``NAME/pictures``.
        record: What it was found from, logged as configuration.
    """
    name = section.name
    for logger in wandb_loggers(loggers):
        logger.log_hyperparams(dict(record))
        logger.log_table(f"{name}/answer", columns=["answer"], data=[[line] for line in section.lines])
        if section.rows:
            logger.log_table(
                f"{name}/table", columns=list(section.columns), data=list(map(list, section.rows))
            )
        if section.chart is not None:
            logger.log_image(f"{name}/chart", [_picture(section.chart)], caption=[section.chart_text])
        if section.pictures:
            images = [(title, image) for title, row in section.pictures.items() for image in row]
            pictures, titles = [picture_of(image) for _, image in images], [title for title, _ in images]
            logger.log_image(f"{name}/pictures", pictures, caption=titles)


def _picture(chart: Any) -> Any:
    from PIL import Image

    return Image.open(io.BytesIO(charts.png(chart)))
