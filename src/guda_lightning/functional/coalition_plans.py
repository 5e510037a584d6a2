"""Which coalitions of players are evaluated, so that ``coalitions`` can say what each player is worth.

A plan of fewer than 2 players or draws is refused with a ConfigError.

Every draw is mirrored: a coalition comes with its complement, a permutation with its reverse. Interactions of
an even number of players then cancel from values, and those of an odd number from interactions. So values are
exact for games of pairwise interactions (Mayer & Wüthrich 2025, arXiv 2508.12947), and interactions also for
games of triples, from as few draws as determine them.

Notation: N all players, n their number, s that of a coalition S.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from guda_lightning.errors import ConfigError
from guda_lightning.functional.noise import uniform_draws

PlanKind = Literal["permutations", "kernel", "uniform", "all_coalitions", "subsets"]

MOST_PLAYERS_OF_ALL = 16  # 65536 coalitions; beyond, the sampled plans are precise enough


@dataclass(frozen=True, eq=False)  # tensors have no single answer to ==
class CoalitionPlan:
    """Which coalitions are evaluated, and which independent draws they belong to.

    Attributes:
        kind: The function that made the plan.
        coalitions: ``[coalitions, players]`` bool, every row once; the first is empty and the last is N.
        draws: ``[draws, of one draw]`` int64 rows of ``coalitions``. One draw of ``permutations`` is the
            coalitions ∅ ... N of a permutation and then of its reverse; any other is S and its complement.
    """

    kind: PlanKind
    coalitions: Tensor
    draws: Tensor

    @property
    def players(self) -> int:
        """Number of players."""
        return self.coalitions.shape[1]


def permutations(players: int, count: int, seed: int) -> CoalitionPlan:
    """``count`` random permutations, each with its reverse."""
    _check_counts(players, count)
    position = _uniform("permutations", players, count, seed).argsort(dim=1).argsort(dim=1)
    position = torch.stack([position, players - 1 - position], dim=1)
    return _plan("permutations", position[:, :, None] < torch.arange(players + 1).view(1, 1, -1, 1))


def kernel(players: int, count: int, seed: int) -> CoalitionPlan:
    """``count`` coalitions from Shapley's kernel ∝ ``1 / (C(n, s) s (n − s))``, each with its complement."""
    _check_counts(players, count)
    numbers = _uniform("kernel", players + 1, count, seed)
    sizes = torch.arange(1, players, dtype=torch.float64)
    edges = (1 / (sizes * (players - sizes))).cumsum(0)
    size = 1 + torch.searchsorted(edges[:-1] / edges[-1], numbers[:, 0].contiguous())
    return _mirrored("kernel", numbers[:, 1:].argsort(dim=1).argsort(dim=1) < size[:, None])


def uniform(players: int, count: int, seed: int) -> CoalitionPlan:
    """``count`` coalitions that hold every player with probability ½, each with its complement."""
    _check_counts(players, count)
    return _mirrored("uniform", _uniform("uniform", players, count, seed) < 0.5)


def all_coalitions(players: int) -> CoalitionPlan:
    """All ``2 ** players`` coalitions, of at most 16 players: every estimator is exact."""
    _check_counts(players)
    if players > MOST_PLAYERS_OF_ALL:
        raise ConfigError(
            "there are too many players to evaluate all coalitions",
            found=f"{players} players, 2 ** {players} coalitions",
            expected=f"at most {MOST_PLAYERS_OF_ALL} players",
            fix="draw coalitions with permutations, kernel or uniform",
        )
    half = torch.arange(2 ** (players - 1))
    bits = half[:, None] >> torch.arange(players - 1, -1, -1)
    return _mirrored("all_coalitions", bits % 2 == 1)


def subsets(players: int, size: int, count: int, seed: int) -> Tensor:
    """``count`` different coalitions of the same size, each as likely as any other (LDS, arXiv 2303.14186).

    A larger count goes on where a smaller one ends.

    Returns:
        ``[count, players]`` bool.

    Raises:
        ConfigError: There are not so many.
    """
    most = math.comb(players, size) if 0 < size < players else 0
    if not 1 <= count <= most:
        raise ConfigError(
            "there are not so many subsets of that size",
            found=f"{count} subsets of {size} of {players} groups",
            expected=f"1 to {most}",
            fix="take fewer subsets" if most else "take a size of at least 1 that leaves a group out",
        )
    found: dict[tuple[bool, ...], None] = {}
    drawn = count
    while len(found) < count:
        order = _uniform("subsets", players, drawn, seed).argsort(dim=1).argsort(dim=1)
        found = dict.fromkeys(map(tuple, (order < size).tolist()))
        drawn *= 2
    return torch.tensor(list(found)[:count])


def _uniform(plan: PlanKind, width: int, count: int, seed: int) -> Tensor:
    # A draw is a pure function of seed and number, so a larger plan goes on where a smaller one ends.
    return torch.from_numpy(uniform_draws(seed, f"coalitions: {plan}", count, width))


def _mirrored(kind: PlanKind, drawn: Tensor) -> CoalitionPlan:
    return _plan(kind, torch.stack([drawn, ~drawn], dim=1))


def _plan(kind: PlanKind, drawn: Tensor) -> CoalitionPlan:
    """The distinct coalitions of ``[draws, ..., players]`` with ∅ and N: sorted, these are first and last."""
    players = drawn.shape[-1]
    ends = torch.tensor([[False], [True]]).expand(2, players)
    rows = torch.cat([drawn.reshape(-1, players), ends])
    coalitions, index = torch.unique(rows, dim=0, return_inverse=True)
    return CoalitionPlan(kind, coalitions, index[:-2].view(len(drawn), -1))


def _check_counts(players: int, count: int = 2) -> None:
    if players < 2 or count < 2:
        raise ConfigError(
            "the coalition plan is too small",
            found=f"{players} players, {count} draws",
            expected="at least 2 players, and 2 draws for a standard error",
            fix="make more groups" if players < 2 else "take a larger count",
        )
