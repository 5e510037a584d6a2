"""Influences between projected gradients that are stored and stream by."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from guda_lightning.attribution.gradients.gram import Gram
from guda_lightning.functional.influence import (
    relative_weights,
    residual_weights,
    self_influence,
    squares_pulled_back,
)

Shard = tuple[Tensor, Tensor]  # features ``[rows, dims]`` of some samples, and their mean squared errors


@dataclass(frozen=True, eq=False)
class ProjectedInfluence:
    """``score_k(φ) = (1/n) φᵀ (H + λ)⁻¹ Σ_{i in k} w_i φ_i``, or the sum of the squares of its terms.

    Memory does not depend on the number n of samples but for their memberships: at most ``3 · 8 · dims²``
    bytes, one shard in float64 twice, and the features of queries; of squares also
    ``3 · 8 · groups · queries · dims`` bytes, for what a query's draws are multiplied with.

    Attributes:
        shards: Streams the features of all samples, in order; called several times.
        members: ``[samples, groups]`` bool.
        damping: λ relative to the mean eigenvalue of H.
        relative: Whether samples are brought to one self-influence.
        residual: Whether they count by their left-out residual.
        squared: Whether each sample's score is squared.
    """

    shards: Callable[[], Iterator[Shard]]
    members: Tensor
    damping: float
    relative: bool = False
    residual: bool = False
    squared: bool = False

    @cached_property
    def _kernel(self) -> Gram:
        return Gram((features for features, _ in self.shards()), self.damping)

    @cached_property
    def _directions(self) -> Tensor:
        """``(1/n) (H + λ)⁻¹ Σ_{i in k} w_i φ_i``, ``[groups, dims]`` float64."""
        total = None
        for directions, members in self._weighted():
            part = members.T.to(directions) @ directions
            total = part if total is None else total + part
        return torch.empty(0) if total is None else total

    def prepare(self) -> None:
        """Pass over the shards once or twice, as far as scores do not depend on queries."""
        _ = self._kernel if self.squared else self._directions

    def __call__(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of queries, and what each draw contributes to them to first order.

        A squared score expects too much by the variance of its mean over draws, as published ones do.

        Args:
            features: ``[queries, evaluations, dims]``, each multiplied by what it counts: they are summed.

        Returns:
            ``[groups, queries]`` and ``[groups, queries, evaluations]`` float64. The variance of the sum of
            the latter is that of the former.
        """
        if not self.squared:
            terms = torch.stack([one.double() @ self._directions.T for one in features]).movedim(-1, 0)
            return terms.sum(dim=-1), terms
        mean, total = features.sum(dim=1, dtype=torch.float64), torch.zeros(0)
        for directions, members in self._weighted():
            part = squares_pulled_back(mean, directions, members)
            total = part if not total.numel() else total.add_(part)
        scores = torch.einsum("qd,gqd->gq", mean, total)
        pairs = zip(features, total.unbind(1), strict=True)
        terms = torch.stack([2 * one.double() @ back.T for one, back in pairs])
        return scores, terms.movedim(-1, 0)

    def _weighted(self) -> Iterator[tuple[Tensor, Tensor]]:
        """``(1/n) (H + λ)⁻¹ w_i φ_i`` of the samples of a shard, float64, and their memberships."""
        count, done = len(self.members), 0
        for features, errors in self.shards():
            features = features.double()
            solved = self._kernel.solve(features)
            weights = torch.full((len(features),), 1 / count, dtype=torch.float64, device=solved.device)
            if self.relative or self.residual:
                influences = self_influence(features, solved)
                if self.relative:
                    weights *= relative_weights(influences)
                if self.residual:
                    weights *= residual_weights(errors, influences / count)
            members = self.members[done : done + len(features)].to(solved.device)
            yield solved.mul_(weights[:, None]), members
            done += len(features)
