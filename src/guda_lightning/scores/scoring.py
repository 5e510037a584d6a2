"""How queries are scored, and the score table that follows from squared errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from guda_lightning.errors import check_range
from guda_lightning.functional.elbo import paired_difference, stderr_kind
from guda_lightning.functional.schedule import NoiseSchedule
from guda_lightning.functional.timesteps import TimestepPlan
from guda_lightning.scores.kinds import CONTENT
from guda_lightning.scores.record import ScoreRecord, ScoringRecord
from guda_lightning.scores.squared_errors import SquaredErrors
from guda_lightning.scores.table import ScoreTable
from guda_lightning.types import Weighting


@dataclass(frozen=True)
class Scoring:
    """How queries are scored: everything besides models and queries that a score depends on.

    Attributes:
        seed: Seed of noise and timesteps.
        strata: Strata of the timestep plan.
        draws: Draws per stratum (or per grid point); two or more give an unbiased standard error.
        grid: ``(start, stop, step)`` of a fixed reference grid instead of strata (biased).
        batch_size: Network evaluations at a time; changes no score.
        precision: Of the forward passes; errors are always summed in float64.
    """

    seed: int = 0
    strata: int = 50
    draws: int = 2
    grid: tuple[int, int, int] | None = None
    batch_size: int = 256
    precision: Literal["fp32", "bf16"] = "fp32"

    def plan(self, schedule: NoiseSchedule) -> TimestepPlan:
        """The timesteps to evaluate.

        Raises:
            ConfigError: They do not fit the schedule.
        """
        fix = "set scoring.batch_size to how many images the device holds, e.g. 256"
        check_range("the scoring batch size", self.batch_size, ge=1, symbol="batch_size", fix=fix)
        if self.grid is not None:
            return TimestepPlan.fixed(schedule, *self.grid, draws=self.draws)
        return TimestepPlan.stratified(schedule, self.strata, self.draws)

    def autocast(self, device: torch.device | str) -> torch.autocast:
        """The precision of forward passes, as a context."""
        return torch.autocast(torch.device(device).type, torch.bfloat16, self.precision == "bf16")

    def record(self, schedule: NoiseSchedule) -> ScoringRecord:
        """What identifies the scoring in stored errors and tables."""
        plan = self.plan(schedule)
        return ScoringRecord(self.seed, plan.record(), stderr_kind(plan), self.precision, CONTENT)


def score_table(
    full: SquaredErrors,
    counterfactuals: Mapping[str, SquaredErrors],
    schedule: NoiseSchedule,
    scoring: Scoring,
    *,
    method: str,
    seed: int,
    record: ScoreRecord,
    besides: Callable[[Weighting], Tensor] | None = None,
) -> ScoreTable:
    """Scores of every query × group under every weighting, from stored squared errors alone.

    A weighting that has no timestep of a plan in its range is left out.

    Args:
        full: Errors of the full model.
        counterfactuals: Errors of each group's counterfactual, by group name.
        schedule: The models' noise schedule.
        scoring: How the errors were measured.
        method: Name of the method, e.g. ``"retrack"``.
        seed: Seed of the counterfactuals.
        record: What identifies the scores.
        besides: Standard errors ``[queries, groups]`` under a weighting of what varies besides the noise
            draws and independently of them; None: nothing.
    """
    plan = scoring.plan(schedule)
    tables = []
    for weighting in get_args(Weighting):
        if not schedule.weights(weighting)[list(plan.timesteps)].any():
            continue
        pairs = [
            paired_difference(full.errors, errors.errors, full.timesteps, plan, schedule, weighting)
            for errors in counterfactuals.values()
        ]
        stderr = torch.stack([of_draws for _, of_draws in pairs], dim=1)
        tables.append(
            ScoreTable.from_matrix(
                torch.stack([score for score, _ in pairs], dim=1),
                stderr if besides is None else stderr.hypot(besides(weighting)),
                query_ids=full.query_ids,
                groups=tuple(counterfactuals),
                n_draws=plan.evaluations,
                method=method,
                weighting=weighting,
                seed=seed,
                record=record,
            )
        )
    return ScoreTable.concat(tables)
