"""How well sums of scores order models of subsets of the groups, beside what the oracle itself reaches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from guda_lightning.errors import ConfigError
from guda_lightning.evaluation.agreement import ORACLE
from guda_lightning.evaluation.bootstrap import check_resampling, interval, resample_counts
from guda_lightning.functional import lds as formula

ALL_SEEDS, OTHER_SEEDS = "all seeds", "other seeds"
COLUMNS = ("method", "yardstick", "value", "low", "high", "chance")


def lds(
    methods: Mapping[str, Tensor],
    measured: Tensor,
    removed: Tensor,
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """The linear datamodelling score of methods, and of the oracle's seeds (TRAK, arXiv 2303.14186).

    The yardstick "all seeds" is the mean of all oracle seeds. For "other seeds" each seed is held out in turn
    and the mean of the others is the yardstick: of every method and, in the row of method "oracle", of the
    held-out seed itself, which is no upper bound.

    Args:
        methods: Name to scores ``[queries, groups]``, larger = contributed more.
        measured: ``[seeds, queries, subsets]`` what a query loses by training on each subset.
        removed: ``[subsets, groups]`` bool, the groups that each leaves out.
        resamples: Bootstrap resamples of queries, subsets and held-out seeds, each drawn independently.
        level: Coverage of the intervals, in (0, 1).
        seed: Seed of the resamples.

    Returns:
        Columns ``method, yardstick, value, low, high, chance``: means over queries (and held-out seeds).
        Chance is 0.

    Raises:
        ConfigError: Shapes do not fit, or there are fewer than three subsets.
        NumericsError: A score is not finite.
    """
    check_resampling(resamples, level, seed)
    if measured.dim() != 3 or removed.shape[:1] != measured.shape[2:]:
        raise ConfigError(
            "the oracle's losses have the wrong shape",
            found=f"losses {tuple(measured.shape)}, subsets {tuple(removed.shape)}",
            expected="losses (seeds, queries, subsets), and subsets (subsets, groups)",
            fix="stack one matrix per oracle seed, its columns in the order of the subsets",
        )
    predicted = {name: formula.predicted_losses(scores, removed) for name, scores in methods.items()}
    draws = _Draws(measured, resamples, seed)
    rows = []
    for yardstick, name, pairs in _sides(predicted, measured):
        value, drawn = draws.mean(pairs)
        low, high = interval(drawn, level)
        rows.append((name, yardstick, value, float(low), float(high), 0.0))
    return pd.DataFrame(rows, columns=list(COLUMNS))


_Pairs = list[tuple[Tensor, Tensor]]  # losses of a side and of its yardstick, each [queries, subsets]


def _sides(predicted: Mapping[str, Tensor], measured: Tensor) -> Iterator[tuple[str, str, _Pairs]]:
    """Yardstick, name of a side, and what is compared with what."""
    mean, count = measured.mean(dim=0), len(measured)
    for name, losses in predicted.items():
        yield ALL_SEEDS, name, [(losses, mean)]
    if count > 1:
        others = [torch.cat([measured[:s], measured[s + 1 :]]).mean(dim=0) for s in range(count)]
        for name, losses in predicted.items():
            yield OTHER_SEEDS, name, [(losses, other) for other in others]
        yield OTHER_SEEDS, ORACLE, list(zip(measured, others, strict=True))


class _Draws:
    """Resamples of queries, held-out seeds and subsets, the same for all sides, so that these are paired.

    Args:
        measured: ``[seeds, queries, subsets]``.
        resamples: How many.
        seed: Of the draws.
    """

    def __init__(self, measured: Tensor, resamples: int, seed: int) -> None:
        seeds, queries, subsets = measured.shape
        of = [np.random.default_rng((seed, stream)) for stream in (0, 1, 2)]
        self.queries, self.seeds, self.subsets = (
            resample_counts(random, resamples, items)
            for random, items in zip(of, (queries, seeds, subsets), strict=True)
        )

    def mean(self, pairs: _Pairs) -> tuple[float, Tensor]:
        """The mean over queries and pairs, and that of every resample: ``[resamples]``.

        Where all subsets of a resample are alike for a query, that query is left out of it.
        """
        value = torch.stack([formula.lds(*pair) for pair in pairs]).nanmean().item()
        total = known = torch.zeros(len(self.queries), dtype=torch.float64)
        for number, pair in enumerate(pairs):
            found = formula.lds(*pair, self.subsets)
            weights = self.queries * (self.seeds[:, number, None] if len(pairs) > 1 else 1) * ~found.isnan()
            total = total + (weights * found.nan_to_num()).sum(dim=1)
            known = known + weights.sum(dim=1)
        return value, total / known
