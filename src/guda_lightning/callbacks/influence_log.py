"""What a validation logs and tells of its scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from guda_lightning.attribution import FittedAttributor
from guda_lightning.attribution.networks import FittedNetworks
from guda_lightning.callbacks.known_worth import standing_in, with_verdicts
from guda_lightning.callbacks.our_data import data_of, grouping_of
from guda_lightning.callbacks.query_counts import drawn_text, most_text
from guda_lightning.data.gathering import Collected
from guda_lightning.data.query_groups import groups_of_queries
from guda_lightning.notes import tell_once
from guda_lightning.report.attribution_log import Attribution, log_attribution
from guda_lightning.report.sinks import sinks_of
from guda_lightning.report.wandb import wandb_loggers
from guda_lightning.scores import ScoreTable
from guda_lightning.types import Queries


def curves_of(attributor: FittedAttributor | None) -> list[dict[str, Any]]:
    """How the influence grew while the counterfactuals of a store were made; empty where nobody watched."""
    if not isinstance(attributor, FittedNetworks):
        return []
    records = (attributor.store.record(key) for key in attributor.keys.values())
    return [row for record in records for row in record.history]


def with_groups(trainer: Trainer, table: ScoreTable, scored: Collected) -> Collected:
    """Queries with the group that each belongs to: as batches say, else as its label or its folder does."""
    if any(group is not None for group in scored.groups):
        return scored
    data, grouping = data_of(trainer), grouping_of(trainer)
    known = table.groups if grouping is None else grouping.names
    queries = Queries(scored.ids, scored.images, scored.labels)
    found = groups_of_queries(queries, known, () if data is None else data.class_names)
    return scored._replace(groups=tuple(found))


def tell_counts(
    trainer: Trainer, who: str, table: ScoreTable, scored: Collected, of: int | None, seed: int
) -> None:
    """Say once how many queries were drawn, and where most of them are of one group.

    Args:
        trainer: Whose data may know the groups.
        who: Who says it.
        table: The scores.
        scored: The queries.
        of: How many samples the validation has; None where nobody knows.
        seed: Of the draw.
    """
    grouping = grouping_of(trainer)
    known = table.groups if grouping is None else grouping.names
    drawn = drawn_text(len(scored.ids), of, seed, scored.groups)
    for text in filter(None, (drawn, most_text(scored.groups, known))):
        tell_once(f"{who}: {text}")


def log_influence(
    trainer: Trainer,
    table: ScoreTable,
    scored: Collected,
    curves: Sequence[Mapping[str, Any]],
    prefix: str,
    made: Mapping[str, Any],
    store: Path | None,
) -> None:
    """Log scores to the loggers of a trainer that show tables or pictures, and to W&B how they were made.

    Args:
        trainer: The trainer, at the end of a validation.
        table: The scores of one weighting.
        scored: The queries; those of a latent model are decoded.
        curves: Rows ``group, step, own, other``.
        prefix: Before every key, and of the run's configuration.
        made: What the configuration says besides what the table does.
        store: Of the counterfactuals; None where the scores are those of a student.
    """
    if not sinks_of(trainer.loggers):
        return
    data = data_of(trainer)
    images = scored.images if data is None else data.pictures(scored.images)
    shown = Attribution(
        table=table if store is None else with_verdicts(table, store),
        queries=Queries(scored.ids, images),
        groups=scored.groups,
        titles=scored.titles,
        curves=curves,
    )
    # Inside fit, Lightning files a validation's scalars under the batch that has just been stepped.
    log_attribution(trainer.loggers, shown, prefix, step=trainer.global_step - (trainer.state.fn == "fit"))
    said = {**made, "standing": standing_in(table, store), **({} if store is None else {"store": str(store)})}
    for logger in wandb_loggers(trainer.loggers):  # others would take this for the module's
        logger.log_hyperparams({prefix: {**shown.config(), **said}})
