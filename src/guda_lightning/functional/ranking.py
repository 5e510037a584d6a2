"""Agreement between two rankings of the same groups: a method's scores and an oracle's.

Every function takes ``scores`` and ``oracle`` of shape ``[queries, groups]`` (larger = contributed more, all
finite, at least two groups) and returns one float64 number per query, larger = better agreement.

Ties: every function returns its mean over all ways to break ties, the two sides independently. So no result
depends on the order of the groups, and a method that scores all groups alike agrees at the level of chance.

Every function raises a ConfigError where the shapes differ, where there are fewer than two groups or where an
argument is out of range, and a NumericsError where a number is not finite.

Definitions: K groups, rank from 1 = largest.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from guda_lightning.errors import ConfigError, check_range
from guda_lightning.functional.checks import checked_scores, refuse_constant

_SCORES, _ORACLE = "the scores", "the oracle's scores"  # in errors


def top1_agreement(scores: Tensor, oracle: Tensor) -> Tensor:
    """1 where both rank the same group first, else 0; chance is 1/K.

    Args:
        scores: ``[queries, groups]``.
        oracle: ``[queries, groups]``.
    """
    of_scores, of_oracle = _ranks(scores, oracle)
    first = torch.arange(1, of_scores.groups + 1, device=scores.device) == 1
    return (of_scores.mean(first) * of_oracle.mean(first)).sum(dim=1)


def mrr(scores: Tensor, oracle: Tensor) -> Tensor:
    """``1 / rank`` that the scores give to the oracle's first group, in (0, 1] (mean reciprocal rank).

    Args:
        scores: ``[queries, groups]``.
        oracle: ``[queries, groups]``.
    """
    of_scores, of_oracle = _ranks(scores, oracle)
    rank = torch.arange(1, of_scores.groups + 1, device=scores.device, dtype=torch.float64)
    return (of_scores.mean(1 / rank) * of_oracle.mean(rank == 1)).sum(dim=1)


def ndcg(scores: Tensor, oracle: Tensor, k: int) -> Tensor:
    """Discounted gain of the first k groups over the largest possible, in [0, 1].

    ``Σ_{rank ≤ k} (2^rel − 1) / log2(rank + 1)`` with ``rel = K − rank in the oracle`` (Burges et al. 2005).

    Args:
        scores: ``[queries, groups]``.
        oracle: ``[queries, groups]``.
        k: How many of the first groups count, at least 1; more than K is K.
    """
    check_range("k", k, ge=1, fix="take a larger k")
    of_scores, of_oracle = _ranks(scores, oracle)
    rank = torch.arange(1, of_scores.groups + 1, device=scores.device, dtype=torch.float64)
    gain = 2**-rank - 2.0**-of_scores.groups  # (2^rel − 1) / 2^K, which does not overflow
    discount = (rank <= k) / torch.log2(rank + 1)
    return (of_scores.mean(discount) * of_oracle.mean(gain)).sum(dim=1) / (discount * gain).sum()


def wpra(scores: Tensor, oracle: Tensor, top: int | None = 3) -> Tensor:
    """Share of pairs of groups ordered as in the oracle, weighted by ``|oracle difference|``, in [0, 1].

    Weighted pairwise ranking agreement (GUDA, arXiv 2601.22651).

    Args:
        scores: ``[queries, groups]``.
        oracle: ``[queries, groups]``.
        top: Only pairs with a group among the oracle's first ``top`` count, groups tied with the last of
            those included; None counts all pairs.

    Raises:
        NumericsError: The oracle scores all groups of a query alike.
    """
    check_range("top", top, ge=1, fix="take a larger top")
    of_scores, of_oracle = _ranks(scores, oracle)
    refuse_constant(_ORACLE, oracle)
    scores, oracle = scores.double(), oracle.double()
    oracle = oracle - oracle.mean(dim=1, keepdim=True)  # keeps all digits
    counts = torch.ones_like(oracle, dtype=torch.bool)
    agreed, total = (_signed_pairs(oracle, side, counts) for side in (of_scores, of_oracle))
    if top is not None:
        rest = of_oracle.start >= top  # pairs among these do not count
        last = (_ranks_of(side.masked_fill(~rest, -torch.inf)) for side in (scores, oracle))
        agreed, total = (
            pairs - _signed_pairs(oracle, side, rest)
            for pairs, side in zip((agreed, total), last, strict=True)
        )
    return (1 + agreed / total) / 2


def rbo(scores: Tensor, oracle: Tensor, p: float = 0.9) -> Tensor:
    """Rank-biased overlap truncated at K and not normalised: ``(1−p) Σ_d p^{d−1} |A_d ∩ B_d| / d``.

    ``A_d``, ``B_d`` are the first d groups of either side; equal rankings reach ``1 − p^K``
    (Webber et al. 2010).

    Args:
        scores: ``[queries, groups]``.
        oracle: ``[queries, groups]``.
        p: Weight of depth d+1 relative to depth d, in (0, 1).
    """
    check_range("p", p, gt=0, lt=1, fix="take the usual 0.9")
    of_scores, of_oracle = _ranks(scores, oracle)
    rank = torch.arange(1, of_scores.groups + 1, device=scores.device, dtype=torch.float64)
    weight = (1 - p) * p ** (rank - 1) / rank
    from_rank = weight.flip(0).cumsum(0).flip(0)  # a group is among the first of both from its later rank on
    later = torch.maximum(rank, rank[:, None]).long() - 1
    return _mean_of_both(of_scores, of_oracle, from_rank[later]).sum(dim=1)


def spearman(scores: Tensor, oracle: Tensor) -> Tensor:
    """Pearson correlation of the ranks, tied groups sharing their mean rank, in [-1, 1].

    Args:
        scores: ``[queries, groups]``.
        oracle: ``[queries, groups]``.

    Raises:
        NumericsError: One side scores all groups of a query alike.
    """
    of_both = _ranks(scores, oracle)
    refuse_constant(_SCORES, scores)
    refuse_constant(_ORACLE, oracle)
    first, second = (side.centred / side.centred.norm(dim=1, keepdim=True) for side in of_both)
    correlation: Tensor = (first * second).sum(dim=1)
    return correlation


def centred_ranks(values: Tensor) -> Tensor:
    """Ranks within each row less their mean, tied ones sharing theirs; their correlation is Spearman's.

    Args:
        values: ``[rows, items]``.

    Returns:
        ``[rows, items]`` float64; zeros where all values of a row are alike.
    """
    return _ranks_of(values.double()).centred


# What an evaluation reports, in the order of its tables.
METRICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "top1": top1_agreement,
    "mrr": mrr,
    "ndcg@3": partial(ndcg, k=3),
    "ndcg@5": partial(ndcg, k=5),
    "wpra@3": wpra,
    "wpra": partial(wpra, top=None),
    "rbo": rbo,
    "spearman": spearman,
}


class _Ranks(NamedTuple):
    """A group takes the ranks ``start + 1 ... end``, one without ties; both are ``[queries, groups]``."""

    start: Tensor
    end: Tensor

    @property
    def groups(self) -> int:
        return self.start.shape[1]

    @property
    def centred(self) -> Tensor:
        """The mean of each group's ranks less that of all: ``[queries, groups]``."""
        return (self.start + self.end - self.groups).double() / 2

    def mean(self, of_rank: Tensor) -> Tensor:
        """Mean over each group's ranks of a quantity given by rank: ``[groups] -> [queries, groups]``."""
        sums = pad(of_rank.double().cumsum(0), (1, 0))
        return (sums[self.end] - sums[self.start]) / (self.end - self.start)


def _ranks(scores: Tensor, oracle: Tensor) -> tuple[_Ranks, _Ranks]:
    if oracle.dim() != 2 or oracle.shape[1] < 2:
        raise ConfigError(
            f"{_ORACLE} cannot be ranked",
            found=f"shape {tuple(oracle.shape)}",
            expected="shape (queries, groups), with at least two groups",
            fix="score more groups",
        )
    sides = ((_SCORES, scores), (_ORACLE, oracle))
    of_scores, of_oracle = (_ranks_of(checked_scores(*side, tuple(oracle.shape))) for side in sides)
    return of_scores, of_oracle


def _ranks_of(values: Tensor) -> _Ranks:
    ordered, order = values.sort(dim=1, descending=True)
    groups = order.shape[1]
    rank = torch.arange(1, groups, device=values.device)
    last = ordered[:, :-1] != ordered[:, 1:]  # of the groups that share ranks; the very last one is left out
    start = pad(rank.where(last, 0), (1, 0)).cummax(dim=1).values
    end = pad(rank.where(last, groups), (0, 1), value=groups).flip(1).cummin(dim=1).values.flip(1)
    return _Ranks(*(torch.empty_like(order).scatter(1, order, side) for side in (start, end)))


def _mean_of_both(first: _Ranks, second: _Ranks, of_ranks: Tensor) -> Tensor:
    """Mean over both sides' ranks of a quantity given by them: ``[groups, groups] -> [queries, groups]``."""
    sums = pad(of_ranks.cumsum(0).cumsum(1), (1, 0, 1, 0))
    total = sums[first.end, second.end] - sums[first.start, second.end]
    total -= sums[first.end, second.start] - sums[first.start, second.start]
    return total / ((first.end - first.start) * (second.end - second.start))


def _signed_pairs(oracle: Tensor, ranks: _Ranks, among: Tensor) -> Tensor:
    """Sum of ``|oracle difference|`` over pairs of some groups, minus where the ranks disagree, 0 for ties.

    ``Σ_{i<j} (o_i − o_j) sign_ij = Σ_i o_i Σ_j sign_ij``, and of n groups ``n − end_i`` rank below group i
    and ``start_i`` above it: no pair is looked at.

    Args:
        oracle: ``[queries, groups]``.
        ranks: Ranks of these groups; those of others do not matter.
        among: ``[queries, groups]`` bool, which groups.
    """
    below_less_above = among.sum(dim=1, keepdim=True) - ranks.end - ranks.start
    return (oracle * below_less_above * among).sum(dim=1)
