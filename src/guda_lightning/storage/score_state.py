"""What the score tables of a run folder and their evaluation say of themselves; without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from guda_lightning.errors import GudaError
from guda_lightning.storage.files import sha256_json
from guda_lightning.storage.runs import RunFolder
from guda_lightning.storage.seals import refuse_damaged, refuse_damaged_folder

_METADATA = b"guda_lightning"  # of the Parquet files that the stages write
_ORACLE = "oracle"  # the row of its seeds among themselves
_UNREADABLE = (GudaError, OSError, pa.ArrowException, KeyError, TypeError, ValueError)

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """A score table of a run.

    Attributes:
        name: Name of its file without the ending.
        groups: How many groups it scores.
        full_hash: Hash of the full model that was scored; None: of none.
        changed: When it was written, in seconds since 1970.
    """

    name: str
    groups: int
    full_hash: str | None
    changed: float


@dataclass(frozen=True)
class Best:
    """The method that an evaluation puts first.

    Attributes:
        method: Its name.
        top1: Share of the queries for which it names the oracle's top group.
        chance: That share by guessing.
        above_chance: Whether the interval of ``top1`` lies above that.
    """

    method: str
    top1: float
    chance: float
    above_chance: bool


def tables_of(run: RunFolder, damaged: list[str]) -> dict[Table, Record]:
    """The score tables with what identifies each, the oldest first; those that cannot be read are named."""
    found: dict[Table, Record] = {}
    for path in run.scores.glob("*.parquet"):
        if not path.exists():  # or gone since it was listed
            damaged += [f"{path}: a link to nothing"] * path.is_symlink()
            continue
        try:
            refuse_damaged(path, "score again")
            record = _record(path)
            groups = record.get("group_sizes") or record.get("counterfactuals") or ()
            table = Table(path.stem, len(groups), record.get("full_hash"), path.stat().st_mtime)
            found[table] = record
        except _UNREADABLE as error:
            damaged.append(_about(path, error))
    return dict(sorted(found.items(), key=lambda item: item[0].changed))


def lacks_weights(record: Record, weights: set[str], nameless: bool) -> bool:
    """Whether models or the posterior that made a table are gone.

    Args:
        record: What identifies the table.
        weights: Hashes of all stored weights.
        nameless: Whether there are posteriors without weights, which no hash of a file tells apart.
    """
    if "classifier" in record:
        return not nameless and record["classifier"] not in weights
    models = record.get("counterfactuals") or record.get("models")
    made = record.get("members") or (models.values() if isinstance(models, Mapping) else ())
    return not weights.issuperset(map(str, made))


def best_of(run: RunFolder, tables: Mapping[Table, Record], damaged: list[str]) -> Best | None:
    """The first method of an evaluation by the top group, as the page shows it.

    That is: on all draws, under the weighting that the oracle's seeds repeat best, against its other seeds
    where there are several. None where nothing was evaluated, or a table was scored again since.
    """
    path = run.evaluation / "metrics.parquet"
    if not path.is_file():
        return None
    try:
        refuse_damaged_folder(run.evaluation, "evaluate again", path.name)
        record, now = _record(path), {table.name: sha256_json(one) for table, one in tables.items()}
        compared = {**record["methods"], **record["oracles"]}
        if any(now.get(name, known) != known for name, known in compared.items()):
            return None
        rows = [row for row in pq.read_table(path).to_pylist() if row["metric"] == "top1"]
        rows = [row for row in rows if row["noise"] == "all draws"]
        oracle = {row["weighting"]: float(row["value"]) for row in rows if row["method"] == _ORACLE}
        shown = max(dict.fromkeys(row["weighting"] for row in rows), key=lambda name: oracle.get(name, 0.0))
        yardstick = "other seeds" if shown in oracle else "all seeds"
        side = [row for row in rows if (row["weighting"], row["yardstick"]) == (shown, yardstick)]
        methods = [row for row in side if row["method"] != _ORACLE]
        best = max(methods, key=lambda row: float(row["value"]), default=None)
        if best is None:
            return None
        above = float(best["low"]) > float(best["chance"])
        return Best(str(best["method"]), float(best["value"]), float(best["chance"]), above)
    except _UNREADABLE as error:
        damaged.append(_about(path, error))
        return None


def _record(path: Path) -> Record:
    found: Record = json.loads(pq.read_schema(path).metadata[_METADATA])["record"]
    return found


def _about(path: Path, error: Exception) -> str:
    found = error.found if isinstance(error, GudaError) else error
    return f"{path}: {' '.join(str(found).split())[:100]}"
