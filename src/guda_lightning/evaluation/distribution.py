"""How groups change the law of training (d-TDA, arXiv 2506.12965): ``guda evaluate --distribution``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from guda_lightning.data.group_names import GroupNames
from guda_lightning.errors import ConfigError, GroupError
from guda_lightning.evaluation.bootstrap import check_resampling
from guda_lightning.evaluation.lds import lds
from guda_lightning.evaluation.trainings import ByTraining, Trainings
from guda_lightning.functional.distribution import (
    DELTAS,
    FEWEST,
    degrees,
    difference,
    halves,
    is_known,
    jackknife,
    log_variance_ratio,
)
from guda_lightning.functional.lds import FEWEST as FEWEST_SUBSETS
from guda_lightning.functional.student import t_quantile
from guda_lightning.storage.frames import load_frame, save_frame

COMMAND = "guda evaluate RUN --distribution"
MEAN = None  # in the column query: the mean over all of them


@dataclass(frozen=True, eq=False)
class DistributionEvaluation:
    """How the law of a query's log-likelihood over trainings changes without each group.

    Attributes:
        differences: Columns ``weighting, method, delta, query, group, value, stderr, low, high, full,
            without``: one row for each query and, with a query of None, for their mean. ``full`` and
            ``without`` count trainings; ``stderr`` and the interval are over them, NaN where a side has one.
            Beside the differences, a delta of ``ratio`` is var Y / var X, with the standard error of its
            logarithm; of variances and Wasserstein distances there is no interval that covers.
            What too few trainings cannot tell has no row.
        record: What was compared, as JSON values: hashes, tables with their hashes, seeds by method and
            group, the ``floor`` of the Wasserstein distance by weighting, rows of ``lds`` and notes.
    """

    differences: pd.DataFrame
    record: dict[str, Any]

    def save(self, path: str | Path) -> None:
        """Write one Parquet file."""
        save_frame(path, self.differences, self.record)

    @classmethod
    def load(cls, path: str | Path) -> DistributionEvaluation:
        """Read what ``save`` wrote.

        Raises:
            StoreError: It is missing or damaged.
        """
        return cls(*load_frame(path, COMMAND))

    @property
    def methods(self) -> list[str]:
        """The methods that were compared."""
        return list(self.record["seeds"])

    def of_groups(self, weighting: str, method: str) -> pd.DataFrame:
        """The rows of means over queries: one a group and difference."""
        frame = self.differences
        chosen = (frame["weighting"] == weighting) & (frame["method"] == method) & frame["query"].isna()
        return frame[chosen]


def compare_trainings(
    trainings: Trainings, *, resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> DistributionEvaluation:
    """Compare the laws with and without each group.

    Args:
        trainings: ELBOs under models of several trainings.
        resamples: Bootstrap resamples of queries and subsets, for the interval of a distributional LDS.
        level: Of the intervals.
        seed: Of the resamples.

    Raises:
        ConfigError: There are models of subsets alone.
    """
    check_resampling(resamples, level, seed)
    if not trainings.without:
        raise ConfigError(
            "there is nothing to compare trainings by",
            found="models of subsets alone",
            expected="counterfactuals without single groups",
            fix="guda attribute -c ... --operator NAME",
        )
    rows: list[dict[str, Any]] = []
    of_subsets: list[dict[str, Any]] = []
    notes = list(trainings.notes)
    for weighting in trainings.weightings:
        for method, groups in trainings.without.items():
            for group, without in groups.items():
                sides = _Sides.of(trainings.full, without, weighting)
                labels = {"weighting": weighting, "method": method, "group": group}
                rows += [labels | row for row in sides.rows(trainings.queries, level)]
        found = _distributional_lds(trainings, weighting, notes, resamples=resamples, level=level, seed=seed)
        of_subsets += [{"weighting": weighting, **row} for row in found]
    record = {
        **trainings.identity,
        "tables": dict(trainings.tables),
        "queries": len(trainings.queries),
        "weightings": list(trainings.weightings),
        "full_seeds": sorted(trainings.full),
        "seeds": {
            method: {group: sorted(side) for group, side in groups.items()}
            for method, groups in trainings.without.items()
        },
        "subsets": sorted(trainings.subsets),
        "floor": _floor(trainings),
        "lds": of_subsets,
        **{"resamples": resamples, "level": level, "seed": seed, "notes": list(dict.fromkeys(notes))},
    }
    return DistributionEvaluation(pd.DataFrame(rows, columns=list(_COLUMNS)), record)


_COLUMNS = (
    *("weighting", "method", "delta", "query", "group"),
    *("value", "stderr", "low", "high", "full", "without"),
)


@dataclass(frozen=True, eq=False)
class _Sides:
    """ELBOs ``[trainings, queries]`` with and without a group."""

    full: Tensor
    without: Tensor
    paired: bool

    @classmethod
    def of(cls, full: ByTraining, without: ByTraining, weighting: str) -> _Sides:
        """Both sides in the order of their seeds; paired where these are the same."""
        return cls(
            _stacked(full, weighting), _stacked(without, weighting), paired=full.keys() == without.keys()
        )

    @property
    def counts(self) -> tuple[int, int]:
        return len(self.full), len(self.without)

    def known(self) -> list[str]:
        return [delta for delta in DELTAS if is_known(delta, *self.counts)]

    def rows(self, queries: tuple[str, ...], level: float) -> Iterator[dict[str, Any]]:
        """One row for each known difference and query, and for the mean over queries."""
        counts = {"full": self.counts[0], "without": self.counts[1]}
        free = degrees(*self.counts)
        width = float(t_quantile(1 - level, torch.tensor([free]))) if free else math.nan
        for delta in self.known():

            def statistic(full: Tensor, without: Tensor, of: str = delta) -> Tensor:
                values = DELTAS[of](full, without)
                return torch.cat([values.mean(dim=0, keepdim=True), values])  # both at once

            difference(delta, self.full, self.without)  # refuses what is not finite
            values = statistic(self.full, self.without).tolist()
            errors = jackknife(statistic, self.full, self.without, paired=self.paired).tolist()
            for query, value, error in zip((MEAN, *queries), values, errors, strict=True):
                half = width * error if delta == "mean" else math.nan
                ends = {"low": value - half, "high": value + half}
                yield {"delta": delta, "query": query, "value": value, "stderr": error, **ends, **counts}
        if is_known("ratio", *self.counts):
            logs = log_variance_ratio(self.full, self.without)
            stderr = jackknife(log_variance_ratio, self.full, self.without, paired=self.paired)
            columns = (logs.exp(), stderr, (logs - width * stderr).exp(), (logs + width * stderr).exp())
            rows = torch.stack(columns, dim=1).tolist()
            for query, row in zip((MEAN, *queries), rows, strict=True):
                named = dict(zip(("value", "stderr", "low", "high"), row, strict=True))
                yield {"delta": "ratio", "query": query, **named, **counts}


def _stacked(side: ByTraining, weighting: str) -> Tensor:
    """``[trainings, queries]`` in the order of seeds."""
    return torch.stack([side[seed][weighting] for seed in sorted(side)])


def _floor(trainings: Trainings) -> dict[str, float]:
    """What the Wasserstein distance is of one law, by weighting; empty with few trainings."""
    if len(trainings.full) < 2 * FEWEST["wasserstein"]:
        return {}
    return {
        weighting: float(halves(_stacked(trainings.full, weighting)).mean())
        for weighting in trainings.weightings
    }


def _distributional_lds(
    trainings: Trainings, weighting: str, notes: list[str], **resampling: Any
) -> list[dict[str, Any]]:
    """How well sums over the groups that subsets lack order what models of the subsets say, by difference."""
    if not trainings.subsets:
        return []
    found: list[dict[str, Any]] = []
    for delta in DELTAS:
        measured = _distances(trainings.full, trainings.subsets, weighting, delta)
        methods: dict[str, tuple[Tensor, Tensor]] = {}
        for method, groups in trainings.without.items():
            of_groups = _distances(trainings.full, groups, weighting, delta)
            if not of_groups:
                continue  # too few trainings, which its cells say
            removed = _removed(list(of_groups), list(measured))
            if removed is None:
                notes.append(f"LDS of the {delta}: {method} lacks groups that subsets leave out")
            else:
                methods[method] = torch.stack(list(of_groups.values()), dim=1), removed
        if len(measured) < FEWEST_SUBSETS:
            notes.append(
                f"LDS of the {delta} is left out: {len(measured)} subsets have enough trainings, it needs "
                f"{FEWEST_SUBSETS}"
            )
            continue
        yardstick = torch.stack(list(measured.values()), dim=1)[None]
        for method, (scores, removed) in methods.items():
            frame = lds({method: scores}, yardstick, removed, **resampling)
            rows = frame.to_dict("records")
            found += [{"delta": delta, **{str(name): value for name, value in row.items()}} for row in rows]
    return found


def _distances(
    full: ByTraining, sides: Mapping[str, ByTraining], weighting: str, delta: str
) -> dict[str, Tensor]:
    """A difference ``[queries]`` for each group or subset with enough trainings."""
    each = {name: _Sides.of(full, without, weighting) for name, without in sides.items()}
    return {
        name: difference(delta, one.full, one.without) for name, one in each.items() if delta in one.known()
    }


def _removed(groups: list[str], subsets: list[str]) -> Tensor | None:
    """``[subsets, groups]`` bool: what each leaves out; None where a group is not known."""
    names = GroupNames(groups)
    try:
        left_out = [set(names.coalition(subset)) for subset in subsets]
    except GroupError:
        return None
    return torch.tensor([[group in out for group in groups] for out in left_out])
