"""Whether scores have the oracle's size, beyond its order."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import torch
from torch import Tensor

from guda_lightning.evaluation.bootstrap import interval, resampled_means
from guda_lightning.evaluation.line import line_of, second_moments

# Each pooling, and the share of the pooled variance up to which its numbers are one number: the means of
# shares that sum to one differ by the rounding of float32.
_POOLINGS = {"all": 0.0, "within": 0.0, "across": 1e-12}
_COLUMNS = ["method", "pooling", "quantity", "value", "low", "high"]


def magnitudes(
    methods: Mapping[str, Tensor], oracle: Tensor, *, resamples: int, level: float, seed: int
) -> pd.DataFrame:
    """Fit the oracle's scores as a line in each method's scores.

    Pooling "all" takes all queries and groups, "within" both sides less their mean over groups, and "across"
    these means only. Where the means of a side are the same for all queries, as those of shares that sum to
    one are, there are no rows for "across"; and resamples in which they happen to be are left out.

    Args:
        methods: Name to finite scores ``[queries, groups]`` that differ between groups, or ``[yardsticks,
            queries, groups]`` where each meets its own.
        oracle: ``[yardsticks, queries, groups]``, such as the mean of the oracle's seeds alone, or the mean
            of the others for each of them.
        resamples: Bootstrap resamples of the queries, and of the yardsticks.
        level: Coverage of the intervals, in (0, 1).
        seed: Seed of the resamples.

    Returns:
        Columns ``method, pooling, quantity, value, low, high``. Quantities are ``slope``, ``offset`` and
        ``r2`` of least squares ``oracle = slope * method + offset`` and, but for "across",
        ``sign_agreement``, the share of equal signs.
    """
    if not methods:
        return pd.DataFrame(columns=_COLUMNS)
    yardsticks, queries, groups = oracle.shape
    x = torch.stack([scores.expand_as(oracle) for scores in methods.values()], dim=2).double().flatten(0, 1)
    statistics, centres = _statistics(x, oracle.double().reshape(-1, 1, groups).expand_as(x))
    per_query = statistics.unflatten(0, (yardsticks, queries)).transpose(0, 1)
    drawn = resampled_means(per_query, resamples, seed)
    means = torch.cat([statistics.mean(dim=0, keepdim=True), drawn])  # the first is the data itself
    smallest = means[:1, :, :1, [2, 4]] * torch.tensor(list(_POOLINGS.values())).double()[:, None]
    line = line_of(means[..., :5], smallest)
    offset = line.offset + centres[..., 1] - line.slope * centres[..., 0]
    quantities = {"slope": line.slope, "offset": offset, "r2": line.r2, "sign_agreement": means[..., 5]}
    rows = []
    for i, method in enumerate(methods):
        for j, pooling in enumerate(_POOLINGS):
            for quantity, numbers in quantities.items():
                if not numbers[0, i, j].isnan():
                    low, high = interval(numbers[1:, i, j], level)
                    rows.append((method, pooling, quantity, numbers[0, i, j].item(), float(low), float(high)))
    return pd.DataFrame(rows, columns=_COLUMNS)


def _statistics(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Means over groups from which, averaged over queries, every quantity follows.

    Args:
        x: Scores ``[queries, methods, groups]``, the queries of one yardstick after the other.
        y: The oracle's, of the same shape.

    Returns:
        ``[queries, methods, poolings, 6]``: the moments and the share of equal signs, NaN for "across"; and
        what was first taken off x and y, to keep all digits: ``[methods, poolings, 2]``.
    """
    mean_x, mean_y = x.mean(dim=2, keepdim=True), y.mean(dim=2, keepdim=True)
    centre_x, centre_y = mean_x.mean(dim=0), mean_y.mean(dim=0)
    within = x - mean_x, y - mean_y
    pooled = (x - centre_x, y - centre_y), within, (mean_x - centre_x, mean_y - centre_y)
    equal = [(a.sign() == b.sign()).double().mean(dim=2) for a, b in ((x, y), within)]
    signs = torch.stack([*equal, torch.full_like(equal[0], torch.nan)], dim=2)
    centre = torch.cat([centre_x, centre_y], dim=1)
    return (
        torch.cat([torch.stack([second_moments(*pair) for pair in pooled], dim=2), signs[..., None]], dim=3),
        torch.stack([centre, torch.zeros_like(centre), centre], dim=1),
    )
