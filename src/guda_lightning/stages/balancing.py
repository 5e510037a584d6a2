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
from guda_lightning.storage.sealed import folder_record
from guda_lightning.storage.weights_record import RECORD
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
        folder: Where images and scores are kept until the set is written, whatever ``num`` and ``least`` are.
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
            One row an image, by its number: as ``judged``, with its picture, ``file``, and ``nearest``, the
            group of the most similar training image.
        """
        rows = self._judged(group, 0, self.num)
        if (rows["margin"] > 0).mean() < self.least:
            return rows
        while (missing := self.num - int((rows["margin"] > 0).sum())) and len(rows) < MOST * self.num:
            stop = min(len(rows) + missing, MOST * self.num)
            rows = pd.concat([rows, self._judged(group, len(rows), stop)])
        return rows

    def undrawn(self, group: str) -> int:
        """How many of the first images of a group are still to be drawn."""
        return sum(
            len(block) for block in self._blocks(group, self.num) if not self._drawing(group, block).complete
        )

    def unscored(self) -> int:
        """Images that are still to be attributed at least: the first ones, and some training images."""
        first = (
            len(block)
            for name in self.models
            for block in self._blocks(name, self.num)
            if not self.judge.has(_table(name, block))
        )
        training = (name for name in self.judge.attributor.groups if not self.judge.has(_of_training(name)))
        return sum(first) + sum(len(self.judge.training_images(name)) for name in training)

    def _blocks(self, group: str, stop: int) -> list[range]:
        """Numbers of the images below ``stop``: as they were drawn together, then those that are missing."""
        blocks, start = list[range](), 0
        while start < stop:
            record = self._folder(group, start) / RECORD
            count = int(folder_record(record.parent)["config"]["num"]) if record.is_file() else stop - start
            blocks.append(range(start, start + count))
            start += count
        return blocks

    def _judged(self, group: str, start: int, stop: int) -> pd.DataFrame:
        blocks = [block for block in self._blocks(group, stop) if block.stop > start]
        return pd.concat([self._of_block(group, block) for block in blocks]).loc[start : stop - 1]

    def _of_block(self, group: str, block: range) -> pd.DataFrame:
        drawing = self._drawing(group, block)
        if not drawing.complete:
            conditions = self._conditions(group, block)
            replace(self.sampler, conditions=conditions, title=f"balance {group}").draw(drawing)
        images = QueryFolder(drawing.folder, self.judge.data.image_shape).load()
        scores, cosines = (one.table(_table(group, block), images) for one in (self.judge, self.pixels))
        (cosine,), rivals = cosines.weightings, self.rivals[group]
        columns = [self.judge.attributor.groups.index(name) for name in self.pixels.attributor.groups]
        rows = judged(scores, group, rivals, self.weighting)
        rows["nearest"] = judged(cosines, group, rivals[columns], cosine)["leads_with"]
        rows["file"] = [str(drawing.folder / f"{image}.png") for image in images.ids]
        return rows.set_index(pd.RangeIndex(block.start, block.stop))

    def _folder(self, group: str, start: int) -> Path:
        return self.folder / "drawn" / unique_slug(group) / str(start)

    def _drawing(self, group: str, block: range) -> Drawing:
        start, folder, model = block.start, self._folder(group, block.start), self.models[group]
        made = {"operator": model.operator, "model": model.identity, "group": group, "start": start}
        return Drawing(
            folder,
            folder.with_name(f"{start}-{block.stop}.parts"),
            {**self.config, **made, "num": len(block)},
            model.read,
            first_noise(group) + start,
        )

    def _conditions(self, group: str, block: range) -> Queries:
        """Labels or prompts of the group's own samples, in turn, for a conditional model."""
        data, ids, count = self.judge.data, tuple(f"{number:08d}" for number in block), len(block)
        if not self.judge.conditional:
            return Queries(ids, torch.empty(count, 0))
        members = data.grouping.forget([group])
        order = np.random.default_rng(self.config["seed"]).permutation(members)
        rows, texts = order[np.array(block) % len(order)], data.sample_prompts
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


def _table(group: str, block: range) -> str:
    return f"{unique_slug(group)}-{block.start}"


def _of_training(group: str) -> str:
    return f"{unique_slug(group)}-training"
