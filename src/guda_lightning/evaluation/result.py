"""What ``guda evaluate`` found, as files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from guda_lightning.errors import StoreError
from guda_lightning.evaluation.agreement import ORACLE
from guda_lightning.storage.files import canonical_json
from guda_lightning.storage.seals import refuse_damaged_folder, sealed_folder

EVERY, SHARED, DISJOINT = "all draws", "shared draw", "disjoint draws"  # what method and oracle are scored on
_FORMAT = 1
_FIX = "rerun guda evaluate, or remove the folder"
OPTIONAL = ("calibration", "fade")  # frames that are not always there
_FRAMES = ("metrics", "comparisons", "magnitudes", *OPTIONAL)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """How well methods agree with the oracle, under every weighting and with shared and disjoint noise.

    Attributes:
        metrics: Columns ``weighting, noise, per, method, yardstick, metric, value, low, high, chance``,
            explained in `guda_lightning.evaluation.Agreement`.
        comparisons: Columns ``weighting, noise, per, first, second, yardstick, metric, difference, low, high,
            probability``.
        magnitudes: Columns ``weighting, noise, per, method, pooling, quantity, value, low, high``.
        record: What was compared, as JSON values: names, hashes, counts, resamples, notes.
        calibration: One row per weighting and method, if groups to calibrate on were named, else None.
        fade: Columns ``weighting, method, group, value, low, high, full``, explained in
            `guda_lightning.evaluation.fade`, if there are likelihoods to compare, else None.
    """

    metrics: pd.DataFrame
    comparisons: pd.DataFrame
    magnitudes: pd.DataFrame
    record: dict[str, Any]
    calibration: pd.DataFrame | None = None
    fade: pd.DataFrame | None = None

    @property
    def tables(self) -> dict[str, str]:
        """Hash of each compared table's record, by the table's name."""
        return {**self.record["oracles"], **self.record["methods"]}

    @property
    def weightings(self) -> tuple[str, ...]:
        """Weightings, the one first under which the oracle's seeds agree best on the top group."""
        agreed = self.oracle_agreement
        return tuple(sorted(self.metrics["weighting"].unique(), key=lambda name: -agreed.get(name, 0.0)))

    @property
    def oracle_agreement(self) -> dict[str, float]:
        """Top-1 agreement of the oracle's seeds by weighting; empty with one seed."""
        rows = self.metrics[(self.metrics["method"] == ORACLE) & (self.metrics["metric"] == "top1")]
        first = rows.drop_duplicates("weighting")  # of all draws
        return dict(zip(first["weighting"], first["value"], strict=True))

    def save(self, folder: str | Path) -> None:
        """Write one Parquet file a frame, all or nothing, with the record as JSON in the schema's metadata.

        An evaluation that was there before is replaced.
        """
        metadata = {"guda_lightning": canonical_json({"format": _FORMAT, "record": self.record})}
        with sealed_folder(folder) as temporary:
            for name in _FRAMES:
                frame = getattr(self, name)
                if frame is not None:
                    table = pa.Table.from_pandas(frame, preserve_index=False)
                    pq.write_table(table.replace_schema_metadata(metadata), temporary / f"{name}.parquet")

    @classmethod
    def load(cls, folder: str | Path) -> Evaluation:
        """Read what ``save`` wrote.

        Raises:
            StoreError: A file is missing or damaged.
        """
        refuse_damaged_folder(Path(folder), _FIX)
        paths = {name: Path(folder) / f"{name}.parquet" for name in _FRAMES}
        paths = {name: path for name, path in paths.items() if name not in OPTIONAL or path.is_file()}
        try:
            tables = {name: pq.read_table(path) for name, path in paths.items()}
            about = json.loads(tables["metrics"].schema.metadata[b"guda_lightning"])
            if about["format"] != _FORMAT:
                raise ValueError(f"format {about['format']} instead of {_FORMAT}")
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
            raise StoreError(
                f"the evaluation in {folder} cannot be read",
                found=" ".join(str(error).split())[:200],
                expected=", ".join(f"{name}.parquet" for name in paths),
                fix=_FIX,
            ) from error
        return cls(record=about["record"], **{name: table.to_pandas() for name, table in tables.items()})

    @staticmethod
    def exists(folder: str | Path) -> bool:
        """Whether the folder holds one; it is written atomically, so it is whole."""
        return (Path(folder) / f"{_FRAMES[0]}.parquet").is_file()
