"""What makes the oracle a yardstick: how well two oracles agree under each recipe.

Everything follows from the squared errors that a yardstick holds. ELBO(full) cancels in a ranking, so no full
model is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import permutations
from typing import get_args

import torch
from torch import Tensor

from benchmarks.stages import Bench
from guda_lightning.diffusion import open_schedule
from guda_lightning.evaluation import agreement
from guda_lightning.functional.elbo import timestep_terms
from guda_lightning.functional.schedule import NoiseSchedule
from guda_lightning.functional.timesteps import TimestepPlan
from guda_lightning.scores import ScoreTable, Scoring, SquaredErrors, stored_errors
from guda_lightning.types import Weighting

SHUFFLES = 20
Row = dict[str, object]


class Yardstick:
    """Scores of all groups under every oracle seed of a run folder, by recipe.

    Args:
        bench: A benchmark whose oracle is complete.
    """

    def __init__(self, bench: Bench) -> None:
        run = bench.run
        self.seeds = range(bench.seeds)
        self.schedule = open_schedule(run.full)
        self.tables = [ScoreTable.load(run.table("retrain", seed)) for seed in self.seeds]
        self.groups = self.tables[0].groups
        self.errors = [stored_errors(table, run.errors) for table in self.tables]

    def stored(
        self, weighting: Weighting, low: float = 0, high: float = 1, draws: slice = slice(None)
    ) -> Tensor:
        """``[seeds, queries, groups]`` from the errors of ``attribute``, of some timesteps and draws."""
        scoring = Scoring()
        return torch.stack(
            [
                torch.stack(
                    [_score(of[g], self.schedule, scoring, weighting, low, high, draws) for g in self.groups],
                    1,
                )
                for of in self.errors
            ]
        )

    def rows(self, setting: str, value: str, scores: Tensor, *others: Tensor) -> list[Row]:
        """Agreement of single oracles with single oracles, over all pairs of seeds."""
        return _rows(setting, value, self._pairs(scores, *others))

    def _pairs(self, scores: Tensor, *others: Tensor) -> list[Tensor]:
        against = others[0] if others else scores
        return [torch.stack([scores[a], against[b]]) for a, b in permutations(self.seeds, 2)]

    def measure(self) -> list[Row]:
        """All recipes, each under both weightings."""
        return [
            {"weighting": weighting, **row}
            for weighting in get_args(Weighting)
            for row in self._measure(weighting)
        ]

    def _measure(self, weighting: Weighting) -> list[Row]:
        scores = self.stored(weighting)
        rows = self.rows("pairing", "paired", scores)
        unpaired = [self._unpaired(scores, shuffle) for shuffle in range(SHUFFLES)]
        rows += _rows("pairing", "seeds dealt at random", unpaired)
        one, other = (self.stored(weighting, draws=slice(draw, draw + 1)) for draw in (0, 1))
        rows += self.rows("noise", "50 evaluations", one)
        rows += self.rows("noise", "50, disjoint", one, other)
        rows += self.rows("noise", "100 evaluations", scores)
        if len(self.seeds) > 2:
            others = [[other for other in self.seeds if other != seed] for seed in self.seeds]
            means = [
                torch.stack([scores[seed], scores[rest].mean(0)])
                for seed, rest in zip(self.seeds, others, strict=True)
            ]
            rows += self.rows("seeds", "1 against 1", scores)
            rows += _rows("seeds", f"1 against the mean of {len(self.seeds) - 1}", means)
        ranges = ((0, 0.1), (0.1, 0.7), (0.3, 0.7), (0.7, 1))
        for low, high in ranges if weighting != "middle" else ():  # which is a range itself
            rows += self.rows("timesteps", f"{low:g} < t/T < {high:g}", self.stored(weighting, low, high))
        return rows

    def _unpaired(self, scores: Tensor, shuffle: int) -> Tensor:
        """Two oracles whose models of different groups have different seeds, as far as there are seeds."""
        generator = torch.Generator().manual_seed(shuffle)
        first = torch.randint(len(self.seeds), (len(self.groups),), generator=generator)
        shift = torch.randint(1, len(self.seeds), (len(self.groups),), generator=generator)
        columns = torch.arange(len(self.groups))
        pick: Callable[[Tensor], Tensor] = lambda seed: scores[seed, :, columns].T  # noqa: E731
        return torch.stack([pick(first), pick((first + shift) % len(self.seeds))])


def _rows(setting: str, value: str, pairs: Sequence[Tensor]) -> list[Row]:
    """Mean agreement over pairs of oracles ``[2, queries, groups]``."""
    found = [agreement({"oracle seed": pair[0]}, pair[1:]).metrics for pair in pairs]
    rows: list[Row] = []
    for metric in ("top1", "ndcg@3", "spearman"):
        chosen = [frame[frame.metric == metric].iloc[0] for frame in found]
        mean = {
            name: sum(float(row[name]) for row in chosen) / len(chosen)
            for name in ("value", "low", "high", "chance")
        }
        rows.append({"setting": setting, "recipe": value, "metric": metric, **mean})
    return rows


def _score(
    errors: SquaredErrors,
    schedule: NoiseSchedule,
    scoring: Scoring,
    weighting: Weighting,
    low: float = 0,
    high: float = 1,
    draws: slice = slice(None),
) -> Tensor:
    """``[queries]``: -ELBO of a counterfactual over some timesteps, a score up to a constant of the query."""
    plan: TimestepPlan = scoring.plan(schedule)
    timesteps = errors.timesteps[:, :, draws]
    terms = timestep_terms(errors.errors[:, :, draws], timesteps, plan, schedule, weighting)
    fraction = timesteps / len(schedule)
    return (terms * ((fraction >= low) & (fraction <= high))).mean(2).sum(1)


def run(bench: Bench) -> list[Row]:
    """Measure the oracle of a benchmark."""
    return Yardstick(bench).measure()
