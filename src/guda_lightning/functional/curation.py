"""Which groups of training samples harm groups of queries (D3M, Data Debiasing with Datamodels, 2406.16846).

Notation: a target group g of queries, ``loss_g`` the full model's mean loss on it, ``score_k(q)`` how much
the loss of query q rises without the training group k.

1. ``loss_weights``: ``w_g ∝ loss_g``, so that what the model serves badly counts more;
2. ``removal_effects``: ``A_k = Σ_g w_g mean_{q ∈ g} score_k(q)``; below zero, removing k helps;
3. where nobody knows the groups, ``pseudo_groups`` splits the queries (Auto-D3M).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from guda_lightning.functional.student import t_quantile


class Interval(NamedTuple):
    """Estimates ``[...]`` with the ends of their intervals."""

    value: Tensor
    low: Tensor
    high: Tensor


def loss_weights(losses: Tensor) -> Tensor:
    """``w_g = loss_g / Σ loss``, as the public code of D3M weighs groups.

    The paper's ``exp(β loss_g)`` has a β that somebody must choose, and depends on the unit of the loss.

    Args:
        losses: ``[targets]``, positive.

    Returns:
        ``[targets]`` float64, of sum one.
    """
    losses = losses.double()
    return losses / losses.sum()


def group_means(values: Tensor, members: Tensor) -> Tensor:
    """Mean of the values of each group's queries.

    Args:
        values: ``[queries, ...]``.
        members: ``[targets, queries]`` bool, at least one query each.

    Returns:
        ``[targets, ...]`` float64.
    """
    return torch.stack([values[row].double().mean(dim=0) for row in members])


def removal_effects(scores: Tensor, members: Tensor, weights: Tensor, level: float = 0.95) -> Interval:
    """``A_k = Σ_g w_g mean_{q ∈ g} score_k(q)`` (D3M, section 3), with Student's interval over queries.

    The queries of each target group count as drawn at random from those that it stands for; each has noise
    draws of its own, so their error is part of the spread. The variance is ``Σ_g w_g² s_g² / n_g`` with the
    degrees of freedom of Welch and Satterthwaite; weights count as known.

    Args:
        scores: ``[queries, groups]``.
        members: ``[targets, queries]`` bool: disjoint groups of at least two queries.
        weights: ``[targets]``.
        level: Share of such intervals that hold the truth.

    Returns:
        ``[groups]`` each, float64.
    """
    scores, counts = scores.double(), members.sum(dim=1)[:, None]
    value = (weights[:, None] * group_means(scores, members)).sum(dim=0)
    spread = torch.stack([scores[row].var(dim=0) for row in members])
    parts = weights[:, None].square() * spread / counts
    variance = parts.sum(dim=0)
    degrees = variance.square() / (parts.square() / (counts - 1)).sum(dim=0)
    degrees = torch.where(variance > 0, degrees, (counts - 1).sum().double())  # 0 / 0: any number will do
    half = t_quantile(1 - level, degrees) * variance.sqrt()
    return Interval(value, value - half, value + half)


def pseudo_groups(scores: Tensor) -> Tensor:
    """Two groups of queries by the sign of the first principal component of their scores (Auto-D3M).

    Rows are brought to length one first, so that a query's likelihood as a whole does not count, and then
    centred.

    Args:
        scores: ``[queries, groups]``.

    Returns:
        ``[queries]`` bool; which side is True means nothing. All False where all rows are alike.
    """
    rows = torch.nn.functional.normalize(scores.double(), dim=1)
    rows = rows - rows.mean(dim=0)
    _, strengths, components = torch.linalg.svd(rows, full_matrices=False)
    if strengths[0] <= 1e-5:  # of rows of length one: rounding of scores that were float32
        return torch.zeros(len(rows), dtype=torch.bool)
    along: Tensor = rows @ components[0]
    return along > 0


def improvements(before: float, after: Tensor, level: float = 0.95) -> tuple[Interval, Interval]:
    """How much lower a loss is after something was removed, beside the spread of seeds.

    Seeds of all removals share one variance ``s²``, pooled with ``arms (seeds − 1)`` degrees of freedom. The
    loss before is that of one seed, too: ``before − mean(after)`` has variance ``s² (1 + 1/seeds)``, the
    difference of two means ``2 s² / seeds``.

    Args:
        before: Of the full model.
        after: ``[arms, seeds]``, the first arm is what should help, the others are compared with it.
        level: Share of such intervals that hold the truth.

    Returns:
        ``[arms]``: before minus after; and ``[arms - 1]``: how much lower the first arm is than each other.
        Ends are NaN with one seed, whose spread nobody knows.
    """
    after = after.double()
    arms, seeds = after.shape
    means = after.mean(dim=1)
    gains, leads = before - means, means[1:] - means[0]
    if seeds == 1:
        unknown = torch.full_like(gains, torch.nan)
        return Interval(gains, unknown, unknown), Interval(leads, unknown[1:], unknown[1:])
    spread = after.var(dim=1).mean().sqrt()
    t = t_quantile(1 - level, torch.tensor([arms * (seeds - 1)]))
    half, half_lead = (t * spread * (factor**0.5) for factor in (1 + 1 / seeds, 2 / seeds))
    return Interval(gains, gains - half, gains + half), Interval(leads, leads - half_lead, leads + half_lead)
