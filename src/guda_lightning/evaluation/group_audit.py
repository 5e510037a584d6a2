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
from guda_lightning.evaluation.line import line_of, second_moments
from guda_lightning.functional.ranking import centred_ranks

_BINS, _RESAMPLES, _LEVEL = 15, 500, 0.95
BY_CHANCE = (1 - _LEVEL) / 2  # of groups whose halves are as like each other as another group: marked
OFF_BY_CHANCE = 1 - _LEVEL  # of groups that a classifier is calibrated for: further off than chance
LEAST_QUERIES = 40  # half of them choose, half of them test, and of 20 rank correlations say something
LEAST_INSIDE = 5  # held-out samples of a group whose calibration is told
_SMALLEST = 1e-6  # variance of ranks up to which a resample holds one query, or equal ones
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
        nearest: The other group that one of the halves is most like, on one half of the queries.
        nearest_agree: Rank correlation with that on the others, which did not choose it.
        below: Whether that half is less like its other half than like this group: on the others, the 95 %
            interval of the difference lies below 0.
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
        error: Expected calibration error, 15 bins, relative to the group's frequency; None of fewer than
            ``LEAST_INSIDE`` samples.
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
    if count < LEAST_INSIDE:
        return Calibration(count, None, None)
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

    What each is compared with is chosen on one half of the queries, at random, and compared on the other: the
    nearest of many is nearer by chance alone where it was chosen.

    Args:
        scores: ``[queries, columns]``: of every group that is split both halves, of others one, in order.
        groups: Names of all groups.
        split: Whether each is.

    Returns:
        Of the groups that are split; none where there are too few queries or only one group. A half that
        scores all queries of either half alike agrees with nothing: its group is left out.
    """
    owner = torch.tensor([row for row, two in enumerate(split) for _ in range(1 + two)])
    if len(scores) < LEAST_QUERIES or len(groups) < 2:
        return {}
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(scores)))
    whole = centred_ranks(scores.T)
    choosing, testing = (centred_ranks(scores[rows].T) for rows in order.tensor_split(2))
    varies = choosing.any(dim=1) & testing.any(dim=1)
    correlation, found = torch.nan_to_num(torch.corrcoef(choosing), -torch.inf), {}
    for row, name in enumerate(groups):
        pair = (owner == row).nonzero()[:, 0].tolist()
        others = varies & (owner != row)
        if not (split[row] and bool(varies[pair].all()) and bool(others.any())):
            continue
        place = int(correlation[pair].masked_fill(~others, -torch.inf).argmax())
        half, other = pair[place // len(owner)], place % len(owner)
        first, second = pair
        agree, resampled = _correlation(whole, [first], [second])
        compared, of_both = _correlation(testing, [first, half], [second, other])
        low, high = interval(resampled[:, 0], _LEVEL)
        top = interval(of_both[:, 0] - of_both[:, 1], _LEVEL)[1]
        found[name] = Halves(
            float(agree[0]),
            float(low),
            float(high),
            groups[int(owner[other])],
            float(compared[1]),
            bool(top < 0),
            _one_sided(scores[:, pair], max(5, len(scores) // len(groups))),
        )
    return found


class Pair(NamedTuple):
    """Two queries with the same content, in two groups.

    Attributes:
        first: Position of one query.
        second: Position of the other.
        group_first: The group in the name of the first.
        group_second: That in the name of the second.
        content: Number of what is the same in both names.
    """

    first: int
    second: int
    group_first: str
    group_second: str
    content: int


def same_content(ids: Sequence[str], groups: Sequence[str]) -> list[Pair]:
    """Pairs of queries whose names differ in a group alone: ``Van_Gogh/Dogs/3`` and ``Cubism/Dogs/3``.

    Args:
        ids: Names with parts between slashes, one of which is a group; spaces and underscores are alike. They
            carry no suffix of an image (``QueryFolder``), so that a dot is part of the name.
        groups: Names of the groups.
    """
    known = {name.replace("_", " "): name for name in groups}
    contents: dict[tuple[str, ...], list[tuple[int, str]]] = {}
    for row, name in enumerate(ids):
        parts = [part.replace("_", " ") for part in name.split("/")]
        named = [place for place, part in enumerate(parts) if part in known]
        if len(parts) > 1 and len(named) == 1:
            content = (*parts[: named[0]], "", *parts[named[0] + 1 :])
            contents.setdefault(content, []).append((row, known[parts[named[0]]]))
    return [
        Pair(one, other, group, second, content)
        for content, same in enumerate(contents.values())
        for place, (one, group) in enumerate(same)
        for other, second in same[place + 1 :]
        if group != second
    ]


def on_the_two(scores: Tensor, groups: Sequence[str], pairs: Sequence[Pair]) -> Tensor:
    """``[pairs]`` share of a pair's difference of scores that sits on its two groups; 2/K by chance.

    NaN where both queries have the same scores, of which no share can be told.

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


def by_content(share: Tensor, pairs: Sequence[Pair]) -> Tensor:
    """``[contents]`` mean over the pairs of each content, whose queries are in several of them.

    Args:
        share: ``[pairs]``.
        pairs: Which pair each is of.
    """
    content = torch.tensor([pair.content for pair in pairs]).unique(return_inverse=True)[1]
    number = torch.bincount(content)
    return torch.zeros(len(number), dtype=share.dtype).index_add(0, content, share) / number


def _correlation(ranks: Tensor, rows: Sequence[int], others: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Correlation of rows of ``[columns, queries]`` with others, ``[rows]``, and over resampled queries."""
    moments = second_moments(ranks[rows].T[..., None], ranks[others].T[..., None])
    resampled = resampled_means(moments[:, None], _RESAMPLES, seed=0)
    lines = [line_of(each, smallest=_SMALLEST) for each in (moments.mean(dim=0), resampled)]
    whole, drawn = (line.slope.sign() * line.r2.sqrt() for line in lines)
    return whole, drawn


def _one_sided(scores: Tensor, queries: int) -> float:
    """Of the queries with the largest sum of ``[queries, 2]``, the share that one half alone explains."""
    top = scores[scores.sum(dim=1).argsort(descending=True)[:queries]]
    larger, smaller = top.max(dim=1).values, top.min(dim=1).values
    return float((smaller <= _ONE_SIDED * larger).double().mean())
