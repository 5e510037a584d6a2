"""The placebo test: is any group's influence larger than that of groups dealt at random?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from guda_lightning.errors import ConfigError, StoreError, check_range
from guda_lightning.functional.checks import refuse_nonfinite
from guda_lightning.scores import ScoreTable
from guda_lightning.scores.kinds import RandomGroups

_FEWEST = 99  # the smallest p-value is then .01


@dataclass(frozen=True, eq=False)
class PlaceboTest:
    """Which queries can be attributed to a group at all.

    Attributes:
        p: ``[queries]`` float64, the p-value of each query, in [floor, 1].
        adjusted: ``[queries]`` float64, p-values adjusted for the number of queries (Benjamini-Hochberg).
        floor: Smallest p-value that so many partitions can give, 1 / (1 + partitions).
        attributable: ``[queries]`` bool, where ``adjusted <= level``.
        level: Largest share of false ones among the attributable queries, on average.
        partitions: Number of placebo partitions.
    """

    p: Tensor
    adjusted: Tensor
    floor: float
    attributable: Tensor
    level: float
    partitions: int


def placebo_test(observed: Tensor, placebo: Tensor, level: float = 0.05) -> PlaceboTest:
    """Compare each query's largest influence with the largest one in every placebo partition.

    A placebo partition deals the training samples to groups at random, sizes and overlaps kept
    (``Grouping.permuted``). If groups mean nothing to a query, the real partition is one more of them, so
    ``p = (1 + #{m : max_k placebo_mk >= max_k observed_k}) / (1 + M)`` is uniform on 1/(1+M), ..., 1 (Phipson
    and Smyth 2010); ties make it larger. All queries meet the same partitions, so their p-values are not
    independent: the adjustment holds for independent and for positively dependent ones.

    Args:
        observed: ``[queries, groups]``, scores of the real groups; larger = contributed more.
        placebo: ``[partitions, queries, groups]``, scores of placebo groups made by the same method, in the
            order of the real groups that they stand for.
        level: Share of false discoveries to allow.

    Raises:
        ConfigError: Shapes that do not fit, fewer than 99 partitions, or a level that no p-value can reach.
        NumericsError: A score is not finite.
    """
    if observed.dim() != 2 or 0 in observed.shape or placebo.shape[1:] != observed.shape:
        raise ConfigError(
            "observed and placebo scores do not fit",
            found=f"observed of shape {tuple(observed.shape)}, placebo of shape {tuple(placebo.shape)}",
            expected="(queries, groups) and (partitions, queries, groups), none of them 0",
            fix="score the same queries under every partition, with as many groups as the real one has",
        )
    partitions = len(placebo)
    refuse_few(partitions, level)
    floor = 1 / (1 + partitions)
    for name, scores in (("observed", observed), ("placebo", placebo)):
        refuse_nonfinite(f"the {name} scores", scores)
    reached = 1 + (placebo.double().amax(dim=2) >= observed.double().amax(dim=1)).sum(dim=0)
    adjusted = _benjamini_hochberg(reached, 1 + partitions)
    p = reached.double() / (1 + partitions)
    return PlaceboTest(p, adjusted, floor, adjusted <= level, level, partitions)


def refuse_few(partitions: int, level: float) -> None:
    """Refuse a test that could not find anything.

    Raises:
        ConfigError: Fewer than 99 partitions, or a level that no p-value can reach.
    """
    if partitions < _FEWEST:
        raise ConfigError(
            "there are too few placebo partitions",
            found=f"{partitions}, whose smallest possible p-value is {1 / (1 + partitions):.3g}",
            expected=f"at least {_FEWEST}, for a smallest p-value of {1 / (1 + _FEWEST):.3g}",
            fix=f"pass --partitions {_FEWEST}, or more",
        )
    floor = 1 / (1 + partitions)
    check_range(
        "the level",
        level,
        ge=floor,
        lt=1,
        expected=f"{floor:.3g}, the smallest p-value of {partitions} partitions, to 1",
        fix="take the usual 0.05, or make more partitions",
    )


def random_groups(table: ScoreTable) -> RandomGroups:
    """What identifies the scores of random groups.

    Raises:
        StoreError: The table has scores of another kind.
    """
    details = table.record.details
    if not isinstance(details, RandomGroups):
        raise StoreError(
            "the score table is not of random groups",
            found=f"scores of the kind {table.record.kind}",
            expected=f"scores of the kind {RandomGroups.kind}",
            fix="run guda placebo",
        )
    return details


def placebo_tests(observed: ScoreTable, random: ScoreTable) -> dict[str, PlaceboTest]:
    """One test per weighting.

    Args:
        observed: Scores of the real groups, ``Q`` queries and ``K`` groups.
        random: Scores of the same queries under ``M`` random partitions, whose ``M * K`` groups follow one
            another partition by partition, as ``guda placebo`` writes them.

    Raises:
        StoreError: These are not the scores of random groups.
    """
    tests, level = {}, random_groups(random).level
    for weighting in observed.weightings:
        real = observed.select(weighting=weighting).matrix()
        dealt = random.select(weighting=weighting).matrix()
        partitions = dealt.view(len(real), -1, real.shape[1]).transpose(0, 1)
        tests[weighting] = placebo_test(real, partitions, level)
    return tests


def placebo_frame(observed: ScoreTable, tests: Mapping[str, PlaceboTest]) -> pd.DataFrame:
    """Columns ``weighting, query, p, adjusted, attributable``, one row per weighting and query."""
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "weighting": weighting,
                    "query": list(observed.queries),
                    "p": test.p.numpy(),
                    "adjusted": test.adjusted.numpy(),
                    "attributable": test.attributable.numpy(),
                }
            )
            for weighting, test in tests.items()
        ],
        ignore_index=True,
    )


def _benjamini_hochberg(counts: Tensor, of: int) -> Tensor:
    """``min_{j >= i} p_(j) n / j`` for the i-th smallest of n p-values ``counts / of``: ``[n] -> [n]``.

    One division of whole numbers, so that a value which equals the level is not rounded above it.
    """
    ordered, order = counts.sort(descending=True)
    ranks = torch.arange(len(counts), 0, -1, device=counts.device)
    adjusted = torch.empty_like(ordered, dtype=torch.float64)
    adjusted[order] = ((ordered * len(counts)).double() / (ranks * of).double()).cummin(0).values
    return adjusted
