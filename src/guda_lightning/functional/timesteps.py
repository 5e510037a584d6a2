"""``TimestepPlan``: at which timesteps the ELBO of a query is estimated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from guda_lightning.errors import ConfigError, check_range
from guda_lightning.functional.noise import uniform_draws
from guda_lightning.functional.schedule import NoiseSchedule

_MOST_EVALUATIONS = 1_000_000  # of one query under one model: their timesteps are drawn at once


@dataclass(frozen=True)
class TimestepPlan:
    """Which timesteps estimate the ELBO of a query.

    Attributes:
        kind: ``stratified`` draws t uniformly inside each stratum and multiplies by the stratum's size,
            which is unbiased for the sum over all scored timesteps; ``fixed`` sums over a reference grid,
            which is biased for it.
        timesteps: ``[scored]`` the timesteps that the strata divide, or the grid itself.
        starts: First position of each stratum in ``timesteps``.
        draws: Draws per stratum.
    """

    kind: Literal["stratified", "fixed"]
    timesteps: tuple[int, ...]
    starts: tuple[int, ...]
    draws: int

    @classmethod
    def stratified(cls, schedule: NoiseSchedule, num_strata: int, draws: int = 1) -> TimestepPlan:
        """Strata of about equal weight, half of it KL weight and half number of timesteps.

        The mixture keeps both weightings precise: strata of equal KL weight alone put nearly all
        draws on the smallest timesteps, where ``uniform`` has next to nothing.

        Raises:
            ConfigError: Fewer than two strata-draws, or more strata than scored timesteps.
        """
        scored = schedule.scored_timesteps
        _check_counts(num_strata, draws, available=scored.numel())
        kl = schedule.kl_weights[scored]
        share = torch.cumsum(0.5 * kl / kl.sum() + 0.5 / scored.numel(), dim=0)
        edges = torch.arange(1, num_strata, dtype=torch.float64) / num_strata
        starts = [0, *(torch.searchsorted(share, edges) + 1).tolist()]
        for i in range(1, num_strata):  # a heavy timestep may hold several edges: every stratum keeps one
            starts[i] = max(starts[i], starts[i - 1] + 1)
        for i in reversed(range(1, num_strata)):
            starts[i] = min(starts[i], scored.numel() - (num_strata - i))
        return cls("stratified", tuple(scored.tolist()), tuple(starts), draws)

    @classmethod
    def even(
        cls, schedule: NoiseSchedule, num_strata: int, draws: int = 1, noisier: float = 1.0
    ) -> TimestepPlan:
        """Strata of as many timesteps each, as far as their number divides: precise for ``uniform`` alone.

        Args:
            schedule: The noise schedule.
            num_strata: Number of strata.
            draws: Draws per stratum.
            noisier: Share of the scored timesteps that is divided, from the end of most noise.

        Raises:
            ConfigError: Fewer than two strata-draws, or more strata than timesteps.
        """
        scored = schedule.scored_timesteps
        scored = scored[scored.numel() - max(1, round(noisier * scored.numel())) :]
        _check_counts(num_strata, draws, available=scored.numel())
        starts = [scored.numel() * i // num_strata for i in range(num_strata)]
        return cls("stratified", tuple(scored.tolist()), tuple(starts), draws)

    @classmethod
    def fixed(cls, schedule: NoiseSchedule, start: int, stop: int, step: int, draws: int = 1) -> TimestepPlan:
        """The grid ``start, start + step, ... < stop`` for every query, as the paper's code uses.

        Raises:
            ConfigError: The grid is empty or leaves the scored range.
        """
        points = range(start, stop, step) if step > 0 else range(0)
        _check_counts(len(points), draws, available=schedule.scored_timesteps.numel())
        grid = tuple(points)
        schedule.check(torch.tensor(grid))
        return cls("fixed", grid, tuple(range(len(grid))), draws)

    @property
    def num_strata(self) -> int:
        """Number of strata, or of grid points."""
        return len(self.starts)

    @property
    def evaluations(self) -> int:
        """Network evaluations per query and model."""
        return self.num_strata * self.draws

    @property
    def sizes(self) -> Tensor:
        """``[strata]`` int64, timesteps per stratum: the factor of each of its terms."""
        return torch.tensor([*self.starts, len(self.timesteps)]).diff()

    @property
    def shares(self) -> Tensor:
        """``[strata]`` float64, timesteps per stratum as a share of all: its factor in a mean over them."""
        return self.sizes.to(torch.float64) / len(self.timesteps)

    @property
    def evaluation_shares(self) -> Tensor:
        """``[evaluations]`` float64, what each draw counts in a mean over timesteps; the sum is 1."""
        return (self.shares / self.draws).repeat_interleave(self.draws)

    def draw(self, seed: int, keys: Sequence[str]) -> Tensor:
        """The timesteps of each query, ``[queries, strata, draws]`` int64, a pure function of its key."""
        timesteps, starts, sizes = torch.tensor(self.timesteps), torch.tensor(self.starts), self.sizes
        if self.kind == "fixed":
            return timesteps.view(1, -1, 1).expand(len(keys), -1, self.draws).clone()
        rows = [torch.from_numpy(uniform_draws(seed, key, self.num_strata, self.draws)) for key in keys]
        offsets = (torch.stack(rows) * sizes.view(1, -1, 1)).long()
        return timesteps[starts.view(1, -1, 1) + offsets]

    def record(self) -> dict[str, object]:
        """What a stored score must say about its timesteps."""
        return {
            "kind": self.kind,
            "biased": self.kind == "fixed",
            "range": [self.timesteps[0], self.timesteps[-1]],
            "timesteps": len(self.timesteps),
            "starts": list(self.starts),
            "draws": self.draws,
        }


def _check_counts(num_strata: int, draws: int, available: int) -> None:
    if not 1 <= num_strata <= available or draws < 1 or num_strata * draws < 2:
        raise ConfigError(
            "the timestep plan has too few or too many timesteps",
            found=f"{num_strata} strata of {draws} draws",
            expected=f"1 to {available} strata, at least 1 draw, and 2 evaluations for a standard error",
            fix=f"choose 2 to {available} strata, or a grid of that many timesteps",
        )
    most = _MOST_EVALUATIONS // num_strata
    check_range("the number of draws", draws, le=most, symbol="draws", fix="lower scoring.draws")
