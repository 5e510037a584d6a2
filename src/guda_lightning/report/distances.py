"""How far pictures without groups lie from those of the full model (``guda sample --without``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from guda_lightning.storage.frames import load_frame
from guda_lightning.storage.runs import RunFolder

PIXELS = "pixels"  # the column of distances in pixels
COMMAND = "guda sample -c ... --without all"


@dataclass(frozen=True, eq=False)
class Distances:
    """Of one operator.

    Attributes:
        frame: One row a query and group: ``query``, ``group``, ``pixels`` (the root mean square difference of
            the values, in [-1, 1]) and, where an encoder was given, a column of its name.
        record: What was measured: ``drawings``, by group what its pictures were drawn with; ``apart``, by
            column the mean distance between two queries; ``encoder``, its hash.
    """

    frame: pd.DataFrame
    record: Mapping[str, Any]

    @classmethod
    def load(cls, run: RunFolder, operator: str, found: Mapping[Path, Mapping[str, Any]]) -> Distances | None:
        """Those of an operator; None where there are none, or pictures changed since.

        Args:
            run: The run folder.
            operator: Whose pictures.
            found: The pictures that lie beside the queries.
        """
        if not run.distances(operator).is_file():
            return None
        frame, record = load_frame(run.distances(operator), COMMAND)
        return cls(frame, record) if record["drawings"] == drawings(operator, found) else None

    @property
    def columns(self) -> list[str]:
        """What was measured: pixels, and perhaps a feature."""
        return [str(name) for name in self.frame.columns if name not in ("query", "group")]

    def matrix(self, column: str = PIXELS) -> tuple[list[str], list[str], Tensor]:
        """Queries that all groups were drawn for, groups, and ``[queries, groups]`` distances."""
        wide = self.frame.pivot(index="query", columns="group", values=column).dropna()
        return list(wide.index), list(wide.columns), torch.from_numpy(wide.to_numpy(copy=True))

    def of_group(self, group: str, queries: Sequence[str]) -> list[str]:
        """How far the pictures of some queries move without a group, in words."""
        own = self.frame[self.frame["group"] == group].set_index("query")[PIXELS]
        return [f"{own[query]:.3f}" for query in queries]

    def radii(self, queries: Sequence[str]) -> list[str]:
        """How far the pictures of some queries move at most, in words."""
        largest = self.frame.groupby("query")[PIXELS].max()
        return [f"{largest[query]:.3f}" for query in queries]


def drawings(operator: str, found: Mapping[Path, Mapping[str, Any]]) -> dict[str, Any]:
    """By group, what an operator's pictures were drawn with."""
    of = [config for config in found.values() if config["operator"] == operator]
    return {config["without"]: dict(config) for config in sorted(of, key=lambda one: str(one["without"]))}
