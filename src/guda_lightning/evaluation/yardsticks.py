"""A run folder with an oracle, packed as a yardstick."""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from guda_lightning.evaluation.agreement import ORACLE
from guda_lightning.evaluation.comparison import compare
from guda_lightning.evaluation.result import EVERY, Evaluation
from guda_lightning.evaluation.tables import oracle_tables
from guda_lightning.scores import ScoreTable
from guda_lightning.scores.stored import error_files
from guda_lightning.storage.files import canonical_json
from guda_lightning.storage.full_record import FullRecord
from guda_lightning.storage.provenance import versions
from guda_lightning.storage.runs import RunFolder
from guda_lightning.storage.seals import SEALS, folder_seal
from guda_lightning.storage.weights_record import RECORD
from guda_lightning.storage.yardsticks import Yardstick, pack, place

SHOWN = ("top1", "ndcg@3")


def pack_run(
    run: RunFolder,
    path: Path,
    *,
    title: str,
    beside: Mapping[str, Path] | None = None,
    places: Mapping[str, str] | None = None,
    images: Mapping[str, str] | None = None,
    made: Mapping[str, Any],
) -> Yardstick:
    """Pack the full model, the queries and the scores of every oracle seed, without the oracle's weights.

    Args:
        run: The run folder; RUN/scores/retrain-SEED.parquet are its oracle, or where there are none
            RUN/scores/ensemble-SEED.parquet.
        path: The card, ``NAME.json``.
        title: What data and which groups these are, in one sentence.
        beside: Files and folders that lie elsewhere and that the configuration names, by their names in the
            archive, such as the table of the groups.
        places: Options of the configuration that name them, by dotted path, and their names in the archive.
        images: ``option``, the place of their path in the configuration, and ``what`` they are, where they do
            not come with a library; the path itself is not packed.
        made: Entries of the card that say how it was made, such as ``commands``, ``machine`` and
            ``core_seconds``.

    Raises:
        StoreError: There is no oracle, its scores do not fit each other, squared errors are gone, or the
            archive is too large.
    """
    tables = oracle_tables(run)
    first, record = tables[0][1], FullRecord.from_file(run.full / RECORD)
    config = json.loads(canonical_json(record.config))
    for option, name in (places or {}).items():
        place(config, option, name)
    if images is not None:
        place(config, images["option"], "")
    # Groups of another file than the full model's may be removed as well: its training did not know any.
    same = first.record.grouping_hash == record.grouping_hash
    told = replace(record, config=config, grouping_hash=record.grouping_hash if same else None)
    files = [*_inside(run.full), *_inside(run.queries), run.examples]
    for table_path, table in tables:
        files += [table_path, *_inside(run.queries_of(table_path))]
        files += [file for parts in error_files(table, run.errors).values() for file in parts]
    contents = {file.relative_to(run.root).as_posix(): file.read_bytes() for file in files}
    full = f"{run.full.name}/"
    contents[full + RECORD] = told.to_json().encode()
    hashes = {
        name.removeprefix(full): hashlib.sha256(content).hexdigest()
        for name, content in contents.items()
        if name.startswith(full) and name != full + SEALS
    }
    contents[full + SEALS] = folder_seal(hashes)
    for name, source in (beside or {}).items():
        for file in _inside(source):
            contents[(Path(name) / file.relative_to(source)).as_posix()] = file.read_bytes()
    card = {
        "title": title,
        "images": None if images is None else dict(images),
        "places": dict(places or {}),
        "config": config,
        "training": {"steps": record.steps, "network_evaluations": record.network_evaluations},
        "full_hash": record.full_hash,
        "queries": len(first.queries),
        "groups": {group: first.record.group_sizes[group] for group in first.groups},
        "oracle_seeds": [table.seeds[0] for _, table in tables],
        "oracle_agreement": _agreement(run, dict(tables)),
        "date": datetime.date.today().isoformat(),
        "versions": versions(),
        **made,
    }
    return pack(path, contents, card)


def _inside(path: Path) -> list[Path]:
    """The files in a folder, or the file itself."""
    return [path] if path.is_file() else [inner for inner in sorted(path.rglob("*")) if inner.is_file()]


def _agreement(run: RunFolder, tables: Mapping[Path, ScoreTable]) -> dict[str, dict[str, list[float]]]:
    """Agreement of each oracle seed with the mean of the others, with its ends: by weighting and metric."""
    if len(tables) < 2:
        return {}
    found = compare({}, {path.stem: table for path, table in tables.items()}, run)
    return {weighting: _of_oracle(found, weighting) for weighting in found.weightings}


def _of_oracle(found: Evaluation, weighting: str) -> dict[str, list[float]]:
    frame = found.metrics
    chosen = frame[
        (frame.method == ORACLE)
        & (frame.yardstick == "other seeds")
        & (frame.noise == EVERY)
        & (frame.weighting == weighting)
    ].set_index("metric")
    return {
        metric: [round(float(chosen[name][metric]), 4) for name in ("value", "low", "high")]
        for metric in SHOWN
    }
