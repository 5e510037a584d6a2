"""Whether images that were drawn for a group are attributed to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from guda_lightning.attribution import AttributionContext, Attributor, FittedAttributor
from guda_lightning.data import GroupDataModule
from guda_lightning.data.grouping import Grouping
from guda_lightning.data.images import to_unit
from guda_lightning.diffusion import FullModel
from guda_lightning.distributed.execution import Execution
from guda_lightning.distributed.ranks import Ranks
from guda_lightning.errors import ConfigError, GroupError
from guda_lightning.functional.leading import margins
from guda_lightning.makers.costs import bar_of
from guda_lightning.progress_bar import Bar
from guda_lightning.scores import ScoreTable
from guda_lightning.stages.base import StageTrainer
from guda_lightning.stages.choices import chosen_groups
from guda_lightning.storage.seals import intact
from guda_lightning.types import Queries

TRAINING = 16  # images of every group that are attributed beside what is drawn for it


@dataclass(eq=False)
class _Progress:
    """Tells the bar that is there of evaluations, if one is."""

    processes: int
    bar: Bar | None = None

    def __call__(self, count: int) -> None:
        if self.bar is not None:
            self.bar.update(count * self.processes)


@dataclass(frozen=True, eq=False)
class AttributedBack:
    """An attributor that says which group images come from, and what it says of training images.

    Attributes:
        attributor: Of all groups that have samples.
        data: The training data.
        conditional: Whether the full model takes labels or prompts.
        trainer: Whose processes do it.
        folder: Where scores are kept, a table each.
    """

    attributor: FittedAttributor
    data: GroupDataModule
    conditional: bool
    trainer: StageTrainer
    folder: Path
    _progress: _Progress = field(repr=False)

    @classmethod
    def of(
        cls,
        attributor: Attributor,
        full: FullModel,
        data: GroupDataModule,
        trainer: StageTrainer,
        folder: Path,
    ) -> AttributedBack:
        """Fit an attributor to the run.

        Raises:
            ConfigError: It scores some groups only.
            GudaError: What it needs is missing, or made from something else.
        """
        ranks, progress = Ranks.of(trainer), _Progress(trainer.world_size)
        execution = Execution(trainer.strategy.root_device, ranks, progress)
        run = trainer.run_folder
        context = AttributionContext(full, data, store=run.store, features=run.features, execution=execution)
        fitted = attributor.fit(context)
        every = chosen_groups(data.grouping)
        if set(fitted.groups) != set(every):
            raise ConfigError(
                "an image leads with a group among all groups",
                found=f"an attributor of {len(fitted.groups)} of {len(every)} groups",
                expected="all groups that have samples",
                fix="leave out the attributor's groups",
            )
        return cls(fitted, data, full.model.conditional, trainer, folder / fitted.method, progress)

    def training_images(self, group: str) -> Queries:
        """Some training images of a group, as they would be brought to be explained."""
        rows = self.data.picked(TRAINING)[group]
        texts, labels = self.data.sample_prompts, self.data.labels
        return Queries(
            tuple(self.data.ids[row] for row in rows),
            to_unit(self.data.pixels(rows)),
            None if labels is None or texts else labels[rows],
            tuple(texts[row] for row in rows) if texts else None,
        )

    def record(self, group: str) -> str:
        """What identifies the attribution: the record of a group's training images."""
        return self.attributor.record(self._given(self.training_images(group))).hash

    def evaluations(self, queries: Queries) -> float:
        """Network evaluations that one image needs, from those of some."""
        return self.attributor.evaluations(self._given(queries)) / len(queries)

    def has(self, name: str) -> bool:
        """Whether the scores of that name are kept, whatever they are of."""
        return intact(self._path(name), "it is scored again")

    def table(self, name: str, images: Queries) -> ScoreTable:
        """Scores of images, kept under a name; all processes call this."""
        queries, path, ranks = self._given(images), self._path(name), Ranks.of(self.trainer)
        record = self.attributor.record(queries)
        if ranks.broadcast(self.has(name) and ScoreTable.is_complete(path, record)):
            return ScoreTable.load(path)
        needed = self.attributor.evaluations(queries) + self.attributor.preparation()
        with bar_of(self.trainer, f"attribute {name}", "evaluations", needed) as bar:
            self._progress.bar = bar
            self.attributor.prepare()
            scores = self.attributor.score(queries)
            self._progress.bar = None
        ranks.on_rank_zero(partial(scores.save, path))
        return scores

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.parquet"

    def _given(self, images: Queries) -> Queries:
        return self.data.as_queries(images, self.conditional)


def rivals_of(grouping: Grouping, groups: Sequence[str]) -> dict[str, Tensor]:
    """Which groups an image of each group should not rather come from: those that share no sample with it.

    Args:
        grouping: All groups.
        groups: Those that are scored, in the order of the result: ``[groups]`` bool each.
    """
    member = grouping.membership()[:, [grouping.names.index(name) for name in groups]].astype(np.int64)
    apart = torch.from_numpy((member.T @ member) == 0)
    return {name: apart[row] for row, name in enumerate(groups)}


def refuse_no_rival(rivals: Mapping[str, Tensor], groups: Sequence[str]) -> None:
    """Refuse a group that nothing could lead against.

    Raises:
        GroupError: Every other group shares samples with it.
    """
    for name in groups:
        if not bool(rivals[name].any()):
            raise GroupError(
                f"no image could lead with another group than '{name}'",
                found="samples that it shares with every other group",
                expected="a group without any of its samples",
                fix=f"leave '{name}' out with --groups",
            )


def judged(table: ScoreTable, group: str, rivals: Tensor, weighting: str) -> pd.DataFrame:
    """What scores say of images that should come from a group, one row an image.

    Args:
        table: Scores of the images.
        group: The group.
        rivals: ``[groups]`` bool, in the order of the table's groups.
        weighting: Of the scores.

    Returns:
        ``id``, ``score`` and ``stderr`` of the group, ``margin`` to its best rival, ``leads_with``, the group
        with the highest score.
    """
    chosen = table.select(weighting=weighting)
    column, scores = chosen.groups.index(group), chosen.matrix()
    margin, leader = margins(scores, column, rivals)
    return pd.DataFrame(
        {
            "id": chosen.queries,
            "score": scores[:, column].tolist(),
            "stderr": chosen.stderr_matrix()[:, column].tolist(),
            "margin": margin.tolist(),
            "leads_with": [chosen.groups[number] for number in leader.tolist()],
        }
    )


def best_weighting(tables: Mapping[str, ScoreTable], rivals: Mapping[str, Tensor]) -> str:
    """The weighting under which most training images lead with their own group; the first of equal ones.

    Args:
        tables: Scores of training images of each group.
        rivals: ``[groups]`` bool for each group, in the order of the tables' groups.
    """
    weightings = next(iter(tables.values())).weightings

    def leading(weighting: str) -> float:
        found = [judged(table, name, rivals[name], weighting) for name, table in tables.items()]
        return float(np.mean([(frame["margin"] > 0).mean() for frame in found]))

    return max(weightings, key=leading)
