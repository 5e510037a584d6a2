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
    """Of one operator, between pictures with and without each single group.

    Attributes:
        frame: One row a query and group: ``query``, ``group``, ``pixels`` (the root mean square difference of
            the values, in [-1, 1]) and, where an encoder was given, a column of its name.
        record: What was measured: ``drawings``, by group what its pictures were drawn with, all by
            counterfactuals of one seed and of the groups of ``grouping_hash``; ``apart``, by column the mean
            distance between two queries; ``encoder``, its hash.
        left_out: What else the operator has drawn without: groups together, groups of another grouping, or
            by counterfactuals of another seed.
    """

    frame: pd.DataFrame
    record: Mapping[str, Any]
    left_out: Sequence[str] = ()

    @classmethod
    def load(
        cls,
        run: RunFolder,
        operator: str,
        found: Mapping[Path, Mapping[str, Any]],
        grouping_hash: str | None,
    ) -> Distances | None:
        """Those of an operator; None where there are none, or of other groups, or pictures changed since.

        Args:
            run: The run folder.
            operator: Whose pictures.
            found: The pictures that lie beside the queries.
            grouping_hash: Of the groups; None: any.
        """
        if not run.distances(operator).is_file():
            return None
        frame, record = load_frame(run.distances(operator), COMMAND)
        measured = record["drawings"]
        drawn = {config["without"]: config for config in found.values() if config["operator"] == operator}
        if grouping_hash not in (None, record["grouping_hash"]):
            return None
        if any(drawn.get(name) != config for name, config in measured.items()):
            return None
        return cls(frame, record, sorted(drawn.keys() - measured.keys()))

    @property
    def columns(self) -> list[str]:
        """What was measured: pixels, and perhaps a feature."""
        return [str(name) for name in self.frame.columns if name not in ("query", "group")]

    def matrix(self, column: str = PIXELS) -> tuple[list[str], list[str], Tensor]:
        """Queries that all groups were drawn for, groups, and ``[queries, groups]`` distances."""
        wide = self.frame.pivot(index="query", columns="group", values=column).dropna()
        return list(wide.index), list(wide.columns), torch.from_numpy(wide.to_numpy(copy=True))

    def of_group(self, group: str, queries: Sequence[str]) -> list[str]:
        """How far the pictures of some queries move without a group, in words; empty where not measured."""
        return _words(self.frame[self.frame["group"] == group].set_index("query")[PIXELS], queries)

    def radii(self, queries: Sequence[str]) -> list[str]:
        """How far the pictures of some queries move at most, in words; empty where not measured."""
        return _words(self.frame.groupby("query")[PIXELS].max(), queries)


def _words(distances: pd.Series[float], queries: Sequence[str]) -> list[str]:
    return [f"{distances[query]:.3f}" if query in distances.index else "" for query in queries]
