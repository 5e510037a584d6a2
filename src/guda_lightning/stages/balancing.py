"""Drawing images for a group until enough of them are attributed to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from guda_lightning.data import QueryFolder
from guda_lightning.functional.noise import seed_of
from guda_lightning.scores import ScoreTable
from guda_lightning.stages.attributed_back import AttributedBack, best_weighting, judged
from guda_lightning.stages.drawing import Drawing, ImageSampler
from guda_lightning.stages.without import StoredModel
from guda_lightning.storage.files import unique_slug
from guda_lightning.types import Queries

MOST = 2  # times as many images as requested are drawn for a group at most


@dataclass(frozen=True, eq=False)
class Balancing:
    """What draws images for groups and attributes them back.

    Attributes:
        models: Of each group alone.
        config: ``full_hash``, ``steps``, ``seed`` and ``prompt_guidance`` of all images.
        num: Images wanted for each group.
        least: Share of the first so many images that must lead with their group.
        rivals: ``[groups]`` bool for each group, in the order of the attributor's groups.
        sampler: Draws images; the conditions are those of each drawing.
        judge: Says which group an image comes from.
        pixels: A second opinion, which has steered nothing: similarity to the nearest training image.
        folder: Where images and scores are kept until the set is written.
    """

    models: Mapping[str, StoredModel]
    config: Mapping[str, Any]
    num: int
    least: float
    rivals: Mapping[str, Tensor]
    sampler: ImageSampler
    judge: AttributedBack
    pixels: AttributedBack
    folder: Path

    @cached_property
    def weighting(self) -> str:
        """The judge's weighting: the one under which most training images lead with their own group."""
        every = {name: self._training(name) for name in self.judge.attributor.groups}
        return best_weighting(every, self.rivals)

    def training(self, group: str) -> pd.DataFrame:
        """What the judge says of some training images of a group, one row an image: as ``judged``."""
        return judged(self._training(group), group, self.rivals[group], self.weighting)

    def fill(self, group: str) -> pd.DataFrame:
        """Draw the images of a group, and more in place of those that do not lead with it.

        Where too few of the first ones lead, no more are drawn: the group is refused, and this is no time to
        look for images that pass. All processes call this.

        Returns:
            One row an image, in the order that they were drawn: as ``judged``, with its picture, ``file``,
            and ``nearest``, the group of the most similar training image.
        """
        rows = self._round(group, 0, self.num)
        if (rows["margin"] > 0).mean() < self.least:
            return rows
        while (missing := self.num - int((rows["margin"] > 0).sum())) and len(rows) < MOST * self.num:
            more = min(missing, MOST * self.num - len(rows))
            rows = pd.concat([rows, self._round(group, len(rows), more)], ignore_index=True)
        return rows

    def unscored(self) -> int:
        """Images that are still to be attributed at least: the first ones, and some training images."""
        first = sum(self.num for name in self.models if not self.judge.has(_table(name, 0)))
        training = (name for name in self.judge.attributor.groups if not self.judge.has(_of_training(name)))
        return first + sum(len(self.judge.training_images(name)) for name in training)

    def first(self, group: str) -> Drawing:
        """The first images of a group."""
        return self._drawing(group, 0, self.num)

    def _round(self, group: str, start: int, count: int) -> pd.DataFrame:
        drawing = self._drawing(group, start, count)
        if not drawing.complete:
            conditions = self._conditions(group, start, count)
            replace(self.sampler, conditions=conditions, title=f"balance {group}").draw(drawing)
        images = QueryFolder(drawing.folder, self.judge.data.image_shape).load()
        scores, cosines = (one.table(_table(group, start), images) for one in (self.judge, self.pixels))
        (cosine,), rivals = cosines.weightings, self.rivals[group]
        columns = [self.judge.attributor.groups.index(name) for name in self.pixels.attributor.groups]
        rows = judged(scores, group, rivals, self.weighting)
        rows["nearest"] = judged(cosines, group, rivals[columns], cosine)["leads_with"]
        rows["file"] = [str(drawing.folder / f"{image}.png") for image in images.ids]
        return rows

    def _drawing(self, group: str, start: int, count: int) -> Drawing:
        folder, model = self.folder / "drawn" / unique_slug(group) / str(start), self.models[group]
        made = {"operator": model.operator, "model": model.identity, "group": group, "start": start}
        return Drawing(
            folder,
            folder.with_name(f"{start}.parts"),
            {**self.config, **made, "num": count},
            model.read,
            first_noise(group) + start,
        )

    def _conditions(self, group: str, start: int, count: int) -> Queries:
        """Labels or prompts of the group's own samples, in turn, for a conditional model."""
        data, ids = self.judge.data, tuple(f"{start + row:08d}" for row in range(count))
        if not self.judge.conditional:
            return Queries(ids, torch.empty(count, 0))
        members = data.grouping.forget([group])
        order = np.random.default_rng(self.config["seed"]).permutation(members)
        rows, texts = order[np.arange(start, start + count) % len(order)], data.sample_prompts
        if texts:
            return replace(data.drawn(count, True, [texts[row] for row in rows]), ids=ids)
        return Queries(ids, torch.empty(count, 0), None if data.labels is None else data.labels[rows])

    def _training(self, group: str) -> ScoreTable:
        return self.judge.table(_of_training(group), self.judge.training_images(group))


def first_noise(group: str) -> int:
    """Number of the noise that a group's first image comes from: of 2³², so that no two groups share any.

    It follows from the group's name alone, so that a group's images are the same whichever others are drawn.
    """
    return seed_of(f"balance {group}", bits=32)


def _table(group: str, start: int) -> str:
    return f"{unique_slug(group)}-{start}"


def _of_training(group: str) -> str:
    return f"{unique_slug(group)}-training"
