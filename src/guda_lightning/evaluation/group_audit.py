"""Whether groups are the right ones: overlaps, calibration, hidden modes, and pairs of the same content."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_calibration_error

from guda_lightning.data.grouping import Grouping
from guda_lightning.evaluation.bootstrap import interval, resampled_means
from guda_lightning.evaluation.line import second_moments

_BINS, _RESAMPLES, _LEVEL = 15, 500, 0.95
LEAST_QUERIES = 20  # of which rank correlations say something
_ONE_SIDED = 0.1  # of the larger half's score, up to which the smaller one counts as none


class Overlap(NamedTuple):
    """The group that a group shares most of its samples with, relative to those of both.

    Attributes:
        group: Its name; empty where no sample is in another group.
        jaccard: Shared samples by those in either, in [0, 1].
    """

    group: str
    jaccard: float


class Halves(NamedTuple):
    """How the scores of a group's two halves compare, over queries.

    Attributes:
        agree: Rank correlation between the halves.
        low: Its 95 % interval over queries.
        high: Likewise.
        nearest: The other group that one of the halves is most like.
        nearest_agree: Rank correlation with that.
        below: Whether a half is less like its other half than like another group: the 95 % interval of the
            difference lies below 0.
        one_sided: Of the queries that the group explains most, the share to which one half adds under a tenth
            of what the other does.
    """

    agree: float
    low: float
    high: float
    nearest: str
    nearest_agree: float
    below: bool
    one_sided: float


class Calibration(NamedTuple):
    """How far the probabilities of a group are off, on held-out samples.

    Attributes:
        samples: Held-out samples in the group.
        error: Expected calibration error, 15 bins, relative to the group's frequency; None without samples.
        chance: What 95 % of perfectly calibrated classifiers with these probabilities stay below.
    """

    samples: int
    error: float | None
    chance: float | None


def overlaps(grouping: Grouping) -> dict[str, Overlap]:
    """What each group overlaps with most."""
    table = torch.from_numpy(grouping.membership()).double()
    shared = table.T @ table
    sizes = shared.diagonal()
    either = sizes[:, None] + sizes - shared
    jaccard = (shared / either.clamp_min(1)).fill_diagonal_(0)
    found = {}
    for row, name in enumerate(grouping.names):
        value, column = jaccard[row].max(dim=0)
        found[name] = Overlap(grouping.names[int(column)] if value else "", float(value))
    return found


def is_tail(size: int, grouping: Grouping) -> bool:
    """Whether a group has less than half the mean size."""
    return 2 * size * len(grouping) < sum(map(grouping.size, grouping.names))


def calibration(probability: Tensor, inside: Tensor, seed: int) -> Calibration:
    """Compare probabilities of one group with who is in it.

    Args:
        probability: ``[draws, samples]``, several noisings of every held-out sample.
        inside: ``[samples]`` bool.
        seed: Of the labels that perfect calibration is simulated with.
    """
    count = int(inside.sum())
    if not count:
        return Calibration(0, None, None)
    frequency = float(inside.double().mean())

    def error(of: Tensor, truth: Tensor) -> float:
        return float(binary_calibration_error(of, truth.long(), n_bins=_BINS)) / frequency

    generator = torch.Generator().manual_seed(seed)
    simulated = []
    for number in range(200):
        of = probability[number % len(probability)]
        drawn = torch.rand(len(of), generator=generator) < of
        simulated.append(error(of, drawn))
    found = float(np.mean([error(of, inside) for of in probability]))
    return Calibration(count, found, float(np.quantile(simulated, _LEVEL)))


def halves(scores: Tensor, groups: Sequence[str], split: Sequence[bool]) -> dict[str, Halves]:
    """Compare the two halves of every group.

    Args:
        scores: ``[queries, columns]``: of every group that is split both halves, of others one, in order.
        groups: Names of all groups.
        split: Whether each is.

    Returns:
        Of the groups that are split; none where there are too few queries or only one group.
    """
    owner = torch.tensor([row for row, two in enumerate(split) for _ in range(1 + two)])
    if len(scores) < LEAST_QUERIES or len(groups) < 2:
        return {}
    ranks = scores.double().argsort(dim=0).argsort(dim=0).double()
    ranks -= ranks.mean(dim=0)
    unit = ranks / ranks.norm(dim=0)
    correlation, found = unit.T @ unit, {}
    for row, name in enumerate(groups):
        if not split[row]:
            continue
        first, second = (owner == row).nonzero()[:, 0].tolist()
        others = correlation[[first, second]].masked_fill(owner == row, -torch.inf)
        place = int(others.argmax())
        half, other = (first, second)[place // len(owner)], place % len(owner)
        pairs = ranks[:, [first, half]], ranks[:, [second, other]]
        resampled = _correlations(resampled_means(second_moments_of(*pairs)[:, None], _RESAMPLES, seed=0))
        low, high = interval(resampled[:, 0], _LEVEL)
        top = interval(resampled[:, 0] - resampled[:, 1], _LEVEL)[1]
        found[name] = Halves(
            float(correlation[first, second]),
            float(low),
            float(high),
            groups[int(owner[other])],
            float(correlation[half, other]),
            bool(top < 0),
            _one_sided(scores[:, [first, second]], max(5, len(scores) // len(groups))),
        )
    return found


def second_moments_of(x: Tensor, y: Tensor) -> Tensor:
    """``[queries, pairs, 5]`` moments of every query by itself."""
    return second_moments(x[..., None], y[..., None])


class Pair(NamedTuple):
    """Two queries with the same content, in two groups.

    Attributes:
        first: Position of one query.
        second: Position of the other.
        group_first: The group in the name of the first.
        group_second: That in the name of the second.
    """

    first: int
    second: int
    group_first: str
    group_second: str


def same_content(ids: Sequence[str], groups: Sequence[str]) -> list[Pair]:
    """Pairs of queries whose names differ in a group alone: ``Van_Gogh/Dogs/3`` and ``Cubism/Dogs/3``.

    Args:
        ids: Names with parts between slashes, one of which is a group; spaces and underscores are alike.
        groups: Names of the groups.
    """
    known = {name.replace("_", " "): name for name in groups}
    contents: dict[tuple[str, ...], list[tuple[int, str]]] = {}
    for row, name in enumerate(ids):
        parts = [part.replace("_", " ") for part in name.rsplit(".", 1)[0].split("/")]
        named = [place for place, part in enumerate(parts) if part in known]
        if len(parts) > 1 and len(named) == 1:
            content = (*parts[: named[0]], "", *parts[named[0] + 1 :])
            contents.setdefault(content, []).append((row, known[parts[named[0]]]))
    return [
        Pair(one, other, group, second)
        for same in contents.values()
        for place, (one, group) in enumerate(same)
        for other, second in same[place + 1 :]
        if group != second
    ]


def on_the_two(scores: Tensor, groups: Sequence[str], pairs: Sequence[Pair]) -> Tensor:
    """``[pairs]`` share of a pair's difference of scores that sits on its two groups; 2/K by chance.

    Args:
        scores: ``[queries, groups]``.
        groups: Names of the groups.
        pairs: Of the queries.
    """
    column = {name: place for place, name in enumerate(groups)}
    found = []
    for pair in pairs:
        difference = (scores[pair.first] - scores[pair.second]).abs().double()
        two = difference[[column[pair.group_first], column[pair.group_second]]].sum()
        found.append(two / difference.sum())
    return torch.stack(found)


def _correlations(moments: Tensor) -> Tensor:
    """``[..., 5]`` moments -> ``[...]`` correlation."""
    x, y, xx, xy, yy = moments.unbind(-1)
    return (xy - x * y) / ((xx - x * x) * (yy - y * y)).sqrt()


def _one_sided(scores: Tensor, queries: int) -> float:
    """Of the queries with the largest sum of ``[queries, 2]``, the share that one half alone explains."""
    top = scores[scores.sum(dim=1).argsort(descending=True)[:queries]]
    larger, smaller = top.max(dim=1).values, top.min(dim=1).values
    return float((smaller <= _ONE_SIDED * larger).double().mean())
