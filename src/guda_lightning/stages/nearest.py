"""What ``guda attribute`` keeps of the training data for the page: images that look like the queries."""

from __future__ import annotations

from pathlib import Path

import torch
from lightning.pytorch import Trainer
from torch.nn.functional import adaptive_avg_pool2d

from guda_lightning.data import GroupDataModule
from guda_lightning.data.grouping import Indices
from guda_lightning.data.nearest import nearest_samples
from guda_lightning.makers.costs import bar_of
from guda_lightning.report.nearest import MAX_NEAREST_QUERIES, NEAREST, NEAREST_PIXELS, NearestImages
from guda_lightning.scores import ScoreTable
from guda_lightning.scores.views import views
from guda_lightning.types import JOINT, Queries


def save_nearest(
    trainer: Trainer, path: Path, table: ScoreTable, of: str, queries: Queries, data: GroupDataModule
) -> None:
    """Keep the training images of the top groups of queries that look most like them.

    Args:
        trainer: Whose progress bar says how far it is.
        path: The file.
        table: Scores of at least the queries; the top group under each of its weightings counts.
        of: Hash of the record of the whole table.
        queries: With their images; some are kept of the first ones alone.
        data: The training data.
    """
    leading: dict[str, dict[int, None]] = {}
    row = {query: position for position, query in enumerate(queries.ids[:MAX_NEAREST_QUERIES])}
    for view in views(table):
        for query, column in zip(view.queries, view.scores.argmax(dim=1).tolist(), strict=True):
            if query in row:
                leading.setdefault(view.groups[column], {})[row[query]] = None
    samples: dict[str, Indices] = {}
    for group in leading:
        members = [group] if group in data.grouping.names else group.split(JOINT)
        if set(members) <= set(data.grouping.names):  # else one of an attributor's own, which the data lack
            samples[group] = data.grouping.forget(members)
    found: dict[tuple[str, str], list[tuple[int, float]]] = {}
    kept: dict[str, int] = {}
    images = []
    with bar_of(trainer, "nearest images", "images", sum(map(len, samples.values()))) as bar:
        for group, rows in samples.items():
            chosen = list(leading[group])
            each = nearest_samples(data, rows, queries.images[chosen], NEAREST)
            for position, nearest in zip(chosen, each, strict=True):
                for name, image in zip(nearest.ids, nearest.images, strict=True):
                    if name not in kept:
                        kept[name] = len(kept)
                        images.append(_small(image))
                places = [kept[name] for name in nearest.ids]
                distances = nearest.distances.tolist()
                found[queries.ids[position], group] = list(zip(places, distances, strict=True))
            bar.update(len(rows))
    if found:
        NearestImages(of, tuple(kept), torch.stack(images), found).save(path)


def _small(image: torch.Tensor) -> torch.Tensor:
    """``[channels, height, width]`` bytes, the longest side of at most ``NEAREST_PIXELS``."""
    longest = max(image.shape[1:])
    if longest <= NEAREST_PIXELS:
        return image
    height, width = (max(1, round(side * NEAREST_PIXELS / longest)) for side in image.shape[1:])
    return adaptive_avg_pool2d(image.float(), (height, width)).round().to(torch.uint8)
