"""How far pictures move without groups: measured once they are drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from guda_lightning.attribution import Encoder
from guda_lightning.data import QueryFolder
from guda_lightning.functional.distances import mean_distance
from guda_lightning.report.distances import PIXELS, drawings
from guda_lightning.report.without_section import drawn_beside
from guda_lightning.storage.files import read_json
from guda_lightning.storage.frames import load_frame, save_frame
from guda_lightning.storage.runs import RunFolder
from guda_lightning.storage.stored import RECORD

_BATCH = 64  # pictures at a time


def measure(run: RunFolder, operator: str, shape: tuple[int, int, int], encoder: Encoder | None) -> bool:
    """Write the distances of an operator's pictures from the queries, unless they are there.

    Args:
        run: The run folder.
        operator: Whose pictures.
        shape: Of a picture.
        encoder: Adds distances of features; None keeps those that were measured.

    Returns:
        Whether there are any, new ones.
    """
    full_hash = _full_hash(run)
    found = {} if full_hash is None else drawn_beside(run, full_hash, shape)
    drawn = drawings(operator, found)
    if not drawn:
        return False
    path = run.distances(operator)
    record: dict[str, Any] = {"drawings": drawn, "encoder": None if encoder is None else encoder.hash}
    if path.is_file():
        before = load_frame(path, "guda sample")[1]
        same = before["encoder"] == record["encoder"] or encoder is None
        if before["drawings"] == drawn and same:
            return False
    folders = {
        config["without"]: folder for folder, config in found.items() if config["operator"] == operator
    }
    queries = QueryFolder(run.queries, shape)
    rows = []
    for group in drawn:
        pictures = QueryFolder(folders[group], shape)
        for part in torch.arange(len(pictures)).split(_BATCH):
            rows.append(_measured(queries, pictures, part.tolist(), group, encoder))
    apart = _apart(queries, encoder)
    save_frame(path, pd.concat(rows), {**record, "apart": apart})
    return True


def _measured(
    queries: QueryFolder, pictures: QueryFolder, rows: list[int], group: str, encoder: Encoder | None
) -> pd.DataFrame:
    full, without = queries.load(rows), pictures.load(rows).images
    found: dict[str, Any] = {"query": full.ids, "group": group}
    for name, of in _views(full.images, encoder).items():
        found[name] = mean_distance(of, _views(without, encoder)[name])
    return pd.DataFrame(found)


def _apart(queries: QueryFolder, encoder: Encoder | None) -> dict[str, float]:
    """By column, the mean distance between neighbours in the list of queries, of the first ``_BATCH``."""
    images = queries.load(range(min(_BATCH, len(queries)))).images
    return {
        name: float(mean_distance(of, of.roll(1, dims=0)).mean())
        for name, of in _views(images, encoder).items()
    }


def _views(images: Tensor, encoder: Encoder | None) -> Mapping[str, Tensor]:
    return {PIXELS: images} | ({} if encoder is None else {encoder.name: encoder(images).cpu()})


def _full_hash(run: RunFolder) -> str | None:
    record = run.queries / RECORD
    if not record.is_file():
        return None
    found: str | None = read_json(record).get("config", {}).get("full_hash")
    return found
