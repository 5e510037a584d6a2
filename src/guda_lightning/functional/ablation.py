"""Ensembles whose members were trained without some groups each, and the errors of any of their members.

Sources: ablation-based counterfactuals (Dai & Gifford 2024, arXiv 2406.07908) and encoded ensembles (Dai &
Gifford 2023, arXiv 2306.02174): every group has a binary code of its own, member j is trained on the groups
whose bit j is 1, and the mean of the members whose bit is 0 has never seen the group. Gram matrix and mean
over subsets: ours.

Notation: n members; r_j the residual ``ε − ε̂_j`` of member j; ``G_ij = <r_i, r_j>``; A a set of m members,
whose mean has the squared error ``E_A = ‖Σ_{j∈A} r_j / m‖²``.
"""

from __future__ import annotations

import math
from itertools import combinations

import torch
from torch import Tensor

from guda_lightning.errors import ConfigError, check_range
from guda_lightning.functional.noise import uniform_draws

MOST_MEMBERS = 20  # 92 378 codes without complements
OF_MEMBERS = "jackknife over the ensemble's members"  # what records say of standard errors that cover it


def fewest_members(groups: int) -> int:
    """The smallest even n, from 6 on, of whose ``C(n, n/2)`` codes half serve so many groups.

    No group then needs the complement of another's code: such a pair has opposite scores. Fewer than six
    members differ only by complements.

    Raises:
        ConfigError: There are fewer than three groups, or more than half of the codes of ``MOST_MEMBERS``.
    """
    most = _codes_of(MOST_MEMBERS) // 2
    check_range("the number of groups of an ensemble", groups, ge=3, le=most, symbol="groups", fix=_FEWER)
    return next(n for n in range(6, MOST_MEMBERS + 1, 2) if _codes_of(n) >= 2 * groups)


def codes(groups: int, members: int, seed: int) -> Tensor:
    """A code for every group: which members are trained on it.

    No group gets the complement of another's code while there are others left, up to half of all codes: such
    a pair of groups would have opposite scores. Every member is trained on about half of the groups. Which
    group has which code is drawn, so that several ensembles confound different groups.

    Args:
        groups: Number of groups.
        members: Even number of members.
        seed: Of the draw.

    Returns:
        ``[groups, members]`` bool, distinct rows with ``members / 2`` ones.

    Raises:
        ConfigError: The number of members is odd or out of range, there are more groups than codes, or so few
            that several members would be trained on the same ones.
    """
    least = fewest_members(groups)
    fix = f"take {least} members, or more for scores with less noise"
    if members % 2 or not 4 <= members <= MOST_MEMBERS:
        raise ConfigError(
            "the members of an ensemble are out of range",
            found=members,
            expected=f"an even number from 4 to {MOST_MEMBERS}",
            fix=fix,
        )
    if _codes_of(members) < groups:
        raise ConfigError(
            f"{members} members have too few codes for {groups} groups",
            found=f"{_codes_of(members)} codes with {members // 2} ones",
            expected="a code of its own for each group",
            fix=fix,
        )
    ones = torch.tensor([[0, *rest] for rest in combinations(range(1, members), members // 2 - 1)])
    one_of_each = torch.zeros(len(ones), members, dtype=torch.bool).scatter(1, ones, value=True)
    for attempt in range(2 * _ATTEMPTS):
        drawn = uniform_draws(seed, f"ensemble {attempt}", 3, max(groups, len(ones)))
        order, sides, places = torch.from_numpy(drawn)
        rows = _balanced(one_of_each[order[: len(ones)].argsort()][:groups], sides < 0.5)
        # With three groups or so, members differ only where two of the codes are complements.
        both = [rows, ~rows] if attempt < _ATTEMPTS else [torch.stack([rows, ~rows], dim=1).flatten(0, 1)]
        chosen = torch.cat(both)[:groups]
        trained = chosen.sum(dim=0)
        if len(chosen.T.unique(dim=0)) == members and trained.min() > 0 and trained.max() < groups:
            return chosen[places[:groups].argsort()]
    raise ConfigError(
        f"{groups} groups are too few for {members} members",
        found="members that would be trained on the same groups",
        expected="other groups for every member",
        fix=f"take {least} members, or smaller groups",
    )


def leave_one_out(groups: int) -> Tensor:
    """The codes with one zero each, of as many members: member k is trained on all groups but k.

    Returns:
        ``[groups, groups]`` bool.
    """
    check_range(
        "the number of groups of an ensemble", groups, ge=2, symbol="groups", fix="make two groups or more"
    )
    return ~torch.eye(groups, dtype=torch.bool)


def gram(residuals: Tensor) -> Tensor:
    """``G_ij = <r_i, r_j>``.

    Args:
        residuals: ``[batch, members, ...]``, ``ε − ε̂`` of every member on the same noise.

    Returns:
        ``[batch, members, members]`` float64.
    """
    flat = residuals.flatten(2).to(torch.float64)
    return flat @ flat.mT


def pair_errors(gram: Tensor) -> Tensor:
    """``E_{ij} = ‖(r_i + r_j) / 2‖²`` of every pair i ≤ j, which hold all that the Gram matrix does.

    Args:
        gram: ``[..., members, members]``.

    Returns:
        ``[..., pairs]``, in the order of ``pairs``.
    """
    first, second = pairs(gram.shape[-1])
    return (gram[..., first, first] + gram[..., second, second] + 2 * gram[..., first, second]) / 4


def gram_of_pairs(errors: Tensor, members: int) -> Tensor:
    """The Gram matrix ``[..., members, members]`` of ``pair_errors``: ``2 E_ij − (E_ii + E_jj) / 2``.

    Linear, so that it may as well be given weighted sums of errors, such as ELBOs.
    """
    first, second = pairs(members)
    single = errors[..., first == second]
    entries = 2 * errors - (single[..., first] + single[..., second]) / 2
    found = errors.new_zeros(*errors.shape[:-1], members, members)
    found[..., first, second] = entries
    found[..., second, first] = entries
    return found


def pairs(members: int) -> Tensor:
    """``[2, pairs]``: i and j of every pair i ≤ j of so many members."""
    return torch.triu_indices(members, members)


def coalition_errors(gram: Tensor, masks: Tensor) -> Tensor:
    """``E_A = Σ_{i,j∈A} G_ij / m²`` of any sets of members.

    Args:
        gram: ``[..., members, members]``.
        masks: ``[sets, members]`` bool, at least one member each.

    Returns:
        ``[..., sets]``.
    """
    shares = masks.to(gram) / masks.sum(dim=1, keepdim=True)
    products = shares[:, :, None] * shares[:, None, :]
    return gram.flatten(-2) @ products.flatten(1).T


def mean_of_subsets(gram: Tensor, size: int) -> Tensor:
    """The mean of ``E_A`` over all ``C(n, m)`` sets A of m members: what a smaller ensemble is by itself.

    ``(T / n + (m − 1) (S − T) / (n (n − 1))) / m`` with the trace T and the sum S of G: a member is in A with
    probability ``m / n``, a pair with ``m (m − 1) / (n (n − 1))``.

    Args:
        gram: ``[..., members, members]``.
        size: m, from 1 to the number of members.

    Returns:
        ``[...]``.
    """
    members = gram.shape[-1]
    trace = gram.diagonal(dim1=-2, dim2=-1).sum(dim=-1)
    apart = (gram.sum(dim=(-2, -1)) - trace) / max(1, members * (members - 1))
    return (trace / members + (size - 1) * apart) / size


def ablated_rise(gram: Tensor, masks: Tensor) -> Tensor:
    """``E_A − mean of E_H`` over all sets H of A's size: what A's members are worse by than as many others.

    The loss of a smaller ensemble is in both and cancels. So does what all groups do alike: rises are
    contrasts between groups, and where masks are those of all codes, they sum to zero.

    Args:
        gram: ``[..., members, members]``.
        masks: ``[sets, members]`` bool, at least one member each.

    Returns:
        ``[..., sets]``.
    """
    sizes = masks.sum(dim=1)
    means = {size: mean_of_subsets(gram, size) for size in sizes.unique().tolist()}
    return coalition_errors(gram, masks) - torch.stack([means[size] for size in sizes.tolist()], dim=-1)


def jackknife(gram: Tensor, masks: Tensor) -> Tensor:
    """Standard error of ``ablated_rise`` for other members in A and beside it, trained alike.

    It does not say how far a rise is from the effect of one group: what A's members miss besides is in both.

    Each member is left out in turn. Members of A and the others are two samples: the variance is
    ``Σ (m − 1) / m Σ_j (θ_(j) − mean θ_(j))²`` over both (Efron & Stein 1981), m their numbers.

    Args:
        gram: ``[..., members, members]``.
        masks: ``[sets, members]`` bool; at least two members in each, and two that are not.

    Returns:
        ``[..., sets]``.
    """
    members = gram.shape[-1]
    left_out = []
    for member in range(members):
        others = [other for other in range(members) if other != member]
        left_out.append(ablated_rise(gram[..., others, :][..., others], masks[:, others]))
    without = torch.stack(left_out, dim=-1)  # [..., sets, members]
    variance = torch.zeros_like(without[..., 0])
    for part in (masks, ~masks):
        size = part.sum(dim=1).to(gram)
        mean = (without * part).sum(dim=-1, keepdim=True) / size[:, None]
        variance += (size - 1) / size * ((without - mean).square() * part).sum(dim=-1)
    return variance.sqrt()


def _balanced(rows: Tensor, sides: Tensor) -> Tensor:
    """The rows ``[codes, members]``, some complemented, so that members have about as many ones as zeros."""
    signs, total = 2 * rows.long() - 1, torch.zeros(rows.shape[1], dtype=torch.int64)
    for row, other in enumerate(sides[: len(rows)].tolist()):
        towards = int(total @ signs[row])
        if towards > 0 or (towards == 0 and other):
            signs[row] *= -1
        total += signs[row]
    return signs > 0


def _codes_of(members: int) -> int:
    return math.comb(members, members // 2)


_ATTEMPTS = 32
_FEWER = "make three groups or more; of very many, join some"
