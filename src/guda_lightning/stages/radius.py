"""How far pictures move without groups: measured once they are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from guda_lightning.attribution import Encoder
from guda_lightning.data import GroupDataModule, QueryFolder
from guda_lightning.errors import ConfigError
from guda_lightning.functional.distances import mean_distance
from guda_lightning.makers.costs import bar_of, say
from guda_lightning.report.distances import COMMAND, PIXELS
from guda_lightning.report.without_section import drawn_beside
from guda_lightning.stages.base import StageTrainer
from guda_lightning.stages.drawing import Drawing
from guda_lightning.storage.frames import load_frame, save_frame
from guda_lightning.storage.runs import RunFolder

_BATCH = 64  # pictures at a time
_ALIKE = ("operator", "counterfactual_seed", "grouping_hash")  # what groups that are compared must share


def measure(trainer: StageTrainer, like: Drawing, data: GroupDataModule, encoder: Encoder | None) -> bool:
    """Write how far the pictures without each single group lie from the queries, unless it is there.

    Args:
        trainer: The trainer of the run.
        like: Pictures of the operator, seed and grouping that count.
        data: The training data with its groups.
        encoder: Adds distances of features; None keeps those that were measured.

    Returns:
        Whether there are any, new ones.

    Raises:
        ConfigError: As ``refuse_other_columns``.
    """
    run, shape = trainer.run_folder, data.image_shape
    found = {
        config["without"]: (folder, config)
        for folder, config in drawn_beside(run, None, shape).items()
        if config["without"] in data.grouping.names
        and all(config.get(name) == like.config[name] for name in _ALIKE)
    }
    drawn = {name: found[name][1] for name in sorted(found)}
    path = run.distances(like.config["operator"])
    kept, before = _kept(path, drawn, encoder)
    new = [name for name in drawn if name not in set(kept["group"])]
    if not drawn or (not new and drawn == before):
        return False
    refuse_other_columns(run, like, encoder)
    queries = QueryFolder(run.queries, shape)
    folders = {name: QueryFolder(found[name][0], shape) for name in new}
    record = {
        "drawings": drawn,
        "grouping_hash": like.config["grouping_hash"],
        "encoder": None if encoder is None else encoder.hash,
        "apart": _apart(queries, encoder),
    }
    total = sum(map(len, folders.values()))
    if encoder is not None:
        say(f"sample: {encoder.name} of {total} pictures without groups, and of their queries")
    with bar_of(trainer, "sample distances", "pictures", total) as bar:
        parts = [kept]
        for start in range(0, max(map(len, folders.values()), default=0), _BATCH):
            rows = range(start, min(start + _BATCH, len(queries)))
            batch = queries.load(rows)
            full = _views(batch.images, encoder)
            for name, folder in folders.items():
                own = rows[: max(0, len(folder) - start)]
                if own:
                    without = _views(folder.load(own).images, encoder)
                    parts.append(_measured(batch.ids[: len(own)], name, full, without))
                    bar.update(len(own))
    frame = pd.concat([part for part in parts if len(part)]).sort_values("group", kind="stable")
    save_frame(path, frame, record)
    return True


def refuse_other_columns(run: RunFolder, like: Drawing, encoder: Encoder | None) -> None:
    """Refuse to measure groups in pixels alone where others were measured in a feature, too.

    Args:
        run: The run folder.
        like: Pictures of the operator.
        encoder: As it was given.

    Raises:
        ConfigError: They would have no such feature.
    """
    path = run.distances(like.config["operator"])
    if encoder is None and path.is_file():
        frame, record = load_frame(path, COMMAND)
        if record["encoder"] is not None:
            raise ConfigError(
                "the pictures of other groups were measured in a feature, too",
                found=f"the column {frame.columns[-1]} in {path}, and no --encoder",
                expected="one encoder for all groups",
                fix=f"pass the --encoder that is called {frame.columns[-1]}, or remove {path}",
            )


def _kept(
    path: Path, drawn: Mapping[str, Any], encoder: Encoder | None
) -> tuple[pd.DataFrame, Mapping[str, Any]]:
    """The rows that are measured already, and the pictures that they are of; none by another encoder."""
    nothing = pd.DataFrame({"query": [], "group": []})
    if not path.is_file():
        return nothing, {}
    frame, record = load_frame(path, COMMAND)
    if encoder is not None and record["encoder"] != encoder.hash:
        return nothing, {}
    same = [name for name, config in drawn.items() if record["drawings"].get(name) == config]
    return frame[frame["group"].isin(same)], record["drawings"]


def _measured(
    ids: Sequence[str], group: str, full: Mapping[str, Tensor], without: Mapping[str, Tensor]
) -> pd.DataFrame:
    found: dict[str, Any] = {"query": ids, "group": group}
    for name, of in without.items():
        found[name] = mean_distance(full[name][: len(of)], of)
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
