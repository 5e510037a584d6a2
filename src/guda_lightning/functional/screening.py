"""First cheap for all groups, then true for few: which to take, and the chance that a leading one is missed.

A cheap method scores all groups of every query, a true one only those that were *kept*, for all queries. What
it would say of the others follows from parallel lines (analysis of covariance): of a query's n kept groups
with cheap scores x and true ones y, ``y = ȳ + b (x − x̄) + e``, with the slope b that all queries share. A
query's residuals have the variance ``s² = RSS / ν`` with ``ν = n − 1 − S/ΣS`` degrees of freedom,
``S = Σ (x − x̄)²``, its part of the one that the slope takes. A screened-out group's y is
``ȳ + b (x − x̄) + s √(1 + 1/n + (x − x̄)²/ΣS) · t``, t of Student's distribution, for residuals that are
independent and normal; with one query that is the prediction interval of simple linear regression. The line
is not continued below a query's lowest kept x, where nothing tells how steep it is: a smaller x counts as it.

A screened-out group is missed among the k leading ones of a query if its y exceeds T, the k-th largest of
the kept ones; the chance that any is, is at most the sum of ``P(y > T)`` over them. Groups are kept by x
alone, so that keeping does not bias the line. As s is not known, the sum is on average larger than the share
of queries that miss one (tests/functional/test_screening.py; measured: docs/benchmarks.md).
"""

from __future__ import annotations

from torch import Tensor

from guda_lightning.errors import NumericsError, check_range
from guda_lightning.functional.student import t_tail

FEWEST = 4  # groups that a line and its error can be told from


def best_places(scores: Tensor) -> tuple[Tensor, Tensor]:
    """The best place of every group in any query, from 0, and the number of queries that have it there.

    Args:
        scores: ``[queries, groups]``; of equal ones the first group is before the others.

    Returns:
        Both ``[groups]`` int64.
    """
    order = scores.argsort(dim=1, descending=True, stable=True)
    places = order.argsort(dim=1)
    best = places.min(dim=0).values
    return best, (places == best).sum(dim=0)


def missed_chance(cheap: Tensor, true: Tensor, kept: Tensor, k: int) -> Tensor:
    """The chance, at most, that a screened-out group is among the k leading ones of a query.

    Args:
        cheap: ``[queries, groups]`` scores of all groups, x.
        true: ``[queries, n]`` scores of those that were kept, y, in their order.
        kept: ``[groups]`` bool, n of which are true.
        k: Number of leading groups.

    Returns:
        ``[queries]`` float64 in [0, 1].

    Raises:
        ConfigError: Fewer than 4 groups were kept, or k of them.
        NumericsError: All kept groups have the same cheap score, in every query.
    """
    count = int(kept.sum())
    check_range("kept groups", count, ge=max(FEWEST, k), fix=f"keep {max(FEWEST, k)} or more")
    x, y = cheap.double()[:, kept], true.double()
    mean, level = x.mean(dim=1, keepdim=True), y.mean(dim=1, keepdim=True)
    spread = (x - mean).square().sum(dim=1, keepdim=True)
    whole = spread.sum()
    if not whole > 0:
        raise NumericsError(
            "the cheap scores do not tell the kept groups apart",
            found=f"the same number for all {count} of them, in every query",
            expected="numbers that differ between groups",
            fix="screen by another method",
        )
    slope = ((x - mean) * y).sum() / whole
    degrees = count - 1 - spread / whole
    variance = (y - level - slope * (x - mean)).square().sum(dim=1, keepdim=True) / degrees
    away = cheap.double()[:, ~kept].maximum(x.min(dim=1, keepdim=True).values) - mean
    error = (variance * (1 + 1 / count + away.square() / whole)).sqrt()
    lead = y.topk(k, dim=1).values[:, -1:]
    return t_tail((lead - level - slope * away) / error, degrees).sum(dim=1).clamp(max=1)
