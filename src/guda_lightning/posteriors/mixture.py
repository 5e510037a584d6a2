"""``Mixture``: several posteriors, weighted by noise level."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from guda_lightning.errors import ConfigError
from guda_lightning.posteriors.patch_kernel import KernelLevel
from guda_lightning.posteriors.posterior import Corrections, GroupPosterior, Regions

KERNEL_ERROR = 0.05  # of ε, mean squared: here a kernel's share is half its highest (docs/benchmarks.md)
KERNEL_SHARE = 0.6  # where it is the full model
_LEAST_SHARE = 0.1  # what would weigh less is not worth its computation


@dataclass(frozen=True, kw_only=True)
class Mixture(GroupPosterior):
    """The weighted mean of what its members say, noise level by noise level.

    Scores are means of the members' scores. A mean of what they add to the full model's prediction serves
    where there has to be one counterfactual: to sample from it and as a target of unlearning. Where members
    disagree it is shorter than they are, and its scores, which grow with its square, are too small.

    Attributes:
        members: Posteriors of the same groups.
        weights: ``[timesteps, members]``; a member costs nothing where its weight is 0.
    """

    sized: ClassVar[bool] = True
    members: tuple[GroupPosterior, ...]
    weights: Tensor

    def __post_init__(self) -> None:
        known = _by_groups(self)
        for member in self.members:
            if _by_groups(member).keys() != known.keys():
                raise ConfigError(
                    "the members of a mixture are posteriors of other groups than the mixture",
                    found=f"{type(member).__name__} of {', '.join(member.groups)}",
                    expected=", ".join(self.groups),
                    fix="make all of them from the same grouping",
                )

    def corrections(self, x_t: Tensor, timesteps: Tensor, labels: Tensor | None = None) -> Corrections:
        """See ``GroupPosterior.corrections``: the weighted mean of the members'."""
        parts = [
            (rows, weights, order, member.corrections(x_t[rows], timesteps[rows.to(timesteps.device)], of))
            for member, rows, weights, order, of in self._weighed(x_t, timesteps, labels)
        ]

        def correct(removed: Tensor) -> Tensor:
            total = x_t.new_zeros(len(x_t), len(removed), *x_t.shape[1:])
            for rows, weights, order, corrections in parts:
                each = weights.to(x_t.dtype).view(-1, 1, *[1] * (x_t.ndim - 1))
                total[rows] += corrections(removed[:, order]) * each
            return total

        return correct

    def errors(
        self,
        noise: Tensor,
        predicted_noise: Tensor,
        x_t: Tensor,
        timesteps: Tensor,
        removed: Tensor,
        labels: Tensor | None = None,
    ) -> Tensor:
        """See ``GroupPosterior.errors``: the weighted mean of the members', not the error of their mean."""
        total = noise.new_zeros(len(noise), len(removed), dtype=torch.float64)
        for member, rows, weights, order, of in self._weighed(x_t, timesteps, labels):
            of_member = member.errors(
                noise[rows],
                predicted_noise[rows],
                x_t[rows],
                timesteps[rows.to(timesteps.device)],
                removed[:, order],
                of,
            )
            total[rows] += of_member * weights[:, None]
        return total

    def regions(
        self, x_t: Tensor, timesteps: Tensor, removed: Tensor, labels: Tensor | None = None
    ) -> Regions | None:
        """See ``GroupPosterior.regions``: the weighted mean of the members that can tell."""
        summed, total = x_t.new_zeros(len(x_t), dtype=torch.float64), None
        for member, rows, weights, order, of in self._weighed(x_t, timesteps, labels):
            found = member.regions(x_t[rows], timesteps[rows.to(timesteps.device)], removed[:, order], of)
            if found is not None:
                each = weights * found.weights
                part = found.shares * each.view(-1, 1, 1, 1)
                total = part.new_zeros(len(x_t), *part.shape[1:]) if total is None else total
                total[rows] += part
                summed[rows] += each
        if total is None:
            return None
        return Regions(total / summed.clamp_min(torch.finfo(summed.dtype).tiny).view(-1, 1, 1, 1), summed)

    def _weighed(
        self, x_t: Tensor, timesteps: Tensor, labels: Tensor | None
    ) -> Iterator[tuple[GroupPosterior, Tensor, Tensor, Tensor, Tensor | None]]:
        """Each member that weighs something, where and how much, the order of its atoms, and labels there."""
        at = self.weights[timesteps.to(self.weights.device)].to(x_t.device)
        for member, weights in zip(self.members, at.T, strict=True):
            rows = weights.nonzero().flatten()
            if len(rows):
                of = None if labels is None else labels[rows]
                yield member, rows, weights[rows], self._order(member), of

    def _order(self, member: GroupPosterior) -> Tensor:
        """The number here of each of a member's atoms."""
        mine = _by_groups(self)
        return torch.tensor([mine[atom] for atom in _by_groups(member)], device=self.atoms.device)


def _by_groups(posterior: GroupPosterior) -> dict[frozenset[str], int]:
    """The number of each atom, by the names of its groups."""
    members = (
        [name for name, inside in zip(posterior.groups, row, strict=True) if inside]
        for row in posterior.atoms.tolist()  # one transfer from a GPU
    )
    return {frozenset(groups): number for number, groups in enumerate(members)}


def mixed(classifiers: int, kernel: Sequence[KernelLevel], span: tuple[int, int]) -> list[dict[str, Any]]:
    """Weights by noise level: classifiers alike, and more of a patch kernel the better it is.

    A kernel whose ε is near the full model's predicts what the network loses with a group about as well as a
    classifier does, and errs otherwise. No retrained model is needed to see where that is.

    Args:
        classifiers: Number of classifiers, at least 1; they come first among the members.
        kernel: Levels of the patch kernel, the last member; empty where there is none.
        span: First and last timestep, for the one level where there is no kernel.

    Returns:
        ``first`` and ``last`` timestep of each level and the ``weights`` of all members, which sum to 1.
    """
    if not kernel:
        return [{"first": span[0], "last": span[1], "weights": [1 / classifiers] * classifiers}]
    shares = [kernel_share(level.mse) for level in kernel]
    return [
        {
            "first": level.first,
            "last": level.last,
            "weights": [(1 - share) / classifiers] * classifiers + [share],
        }
        for level, share in zip(kernel, shares, strict=True)
    ]


def kernel_share(mse: float) -> float:
    """What a patch kernel weighs: ``KERNEL_SHARE / (1 + (mse / KERNEL_ERROR)²)``, or 0 where that is little.

    Near what denoises held-out samples best, where that can be fitted (docs/benchmarks.md).

    Args:
        mse: Mean squared distance of its ε̂ to the full model's, >= 0.
    """
    share = KERNEL_SHARE / (1 + (mse / KERNEL_ERROR) ** 2)
    return share if share >= _LEAST_SHARE else 0.0


def weights_of_levels(levels: Sequence[Mapping[str, Any]], timesteps: int) -> Tensor:
    """``[timesteps, members]``, those of each level from its first timestep to the next level.

    Args:
        levels: As ``mixed`` gives them, in order.
        timesteps: Number of timesteps of the schedule.
    """
    table = torch.tensor([levels[0]["weights"]], dtype=torch.float64).repeat(timesteps, 1)
    for level in levels:
        table[level["first"] :] = torch.tensor(level["weights"], dtype=torch.float64)
    return table
