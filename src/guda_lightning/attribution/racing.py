"""Scores that stop early: evaluations are spent only where a query's top groups are still open."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from guda_lightning.attribution.attributor import Attributor, refuse_no_queries
from guda_lightning.attribution.operators import elbo_attributor
from guda_lightning.data.grouping import Grouping
from guda_lightning.diffusion import FullModel
from guda_lightning.distributed.ranks import Ranks
from guda_lightning.functional.elbo import delta_elbo, elbo
from guda_lightning.functional.racing import Race, boundary, race
from guda_lightning.posteriors import GUIDANCE
from guda_lightning.scores import ScoreTable
from guda_lightning.scores.scoring import Scoring
from guda_lightning.types import Queries, Weighting

_ROUND = 2**32  # between the noise seeds of two rounds
_PAIR_BYTES = 96  # three numbers, and what a round computes them from


class RacingAttributor(Attributor):
    """Scores of counterfactuals whose rounds end for a query when its top groups are known.

    A round is one draw of a few strata. ``n_draws`` of the table says what each score took. Scores of groups
    that were decided early are less precise, and say which groups lead rather than by how much.

    Args:
        store: Folder of the store, RUN/store.
        operator: Whose counterfactuals, such as ``guidance`` or ``retrack``.
        top: Size k of the set of leading groups that is to be known.
        delta: Allowed error δ of a query, for rounds that are about normal.
        strata: Timesteps in a round.
        rounds: Rounds before the first decision, and rounds at most.
        weighting: The weighting of the race.
        scoring: Seed, batch size and precision; its strata, draws and grid are not used.
        seed: Seed of the counterfactuals.
    """

    def __init__(
        self,
        store: str | Path,
        operator: str = GUIDANCE,
        top: int = 1,
        delta: float = 0.05,
        strata: int = 10,
        rounds: tuple[int, int] = (3, 20),
        weighting: Weighting = "uniform",
        scoring: Scoring = Scoring(),  # noqa: B008  (frozen)
        seed: int = 0,
    ) -> None:
        self.top, self.delta, self.rounds, self.weighting, self.seed = top, delta, rounds, weighting, seed
        self.round = replace(scoring, strata=strata, draws=1, grid=None)
        self.inner = elbo_attributor(store, operator, scoring=self.round, seed=seed)
        self._report: list[str] = []

    def fit(self, full: FullModel, data: Any, grouping: Grouping | None) -> RacingAttributor:
        """Find the counterfactuals.

        Args:
            full: The full model.
            data: Not looked at.
            grouping: Today's groups, or None for those of the store.

        Raises:
            StoreError: One is missing or made from something else.
            ConfigError: There are not more groups than are to be found, or an argument is out of range.
        """
        self.inner.fit(full, data, grouping)
        self._schedule = full.model.schedule
        self.fitted_groups, self.method = self.inner.fitted_groups, f"{self.inner.method}_race"
        first, last = self.rounds
        boundary(len(self.fitted_groups), k=self.top, delta=self.delta, rounds_min=first, rounds_max=last)
        self.round.plan(self._schedule)
        return self

    def score(self, queries: Queries) -> ScoreTable:
        """Race the groups of every query."""
        refuse_no_queries(queries)
        first, last = self.rounds
        found = race(
            lambda number, active: self._scores(queries, number, active),
            len(queries),
            len(self.fitted_groups),
            k=self.top,
            delta=self.delta,
            rounds_min=first,
            rounds_max=last,
        )
        self._report = [_described(found, self.top, self.delta, self.round.strata)]
        return ScoreTable.from_matrix(
            found.scores,
            found.stderr,
            query_ids=queries.ids,
            groups=self.fitted_groups,
            n_draws=found.rounds * self.round.strata,
            method=self.method,
            weighting=self.weighting,
            seed=self.seed,
            record=self.record(queries),
        )

    def record(self, queries: Queries) -> dict[str, object]:
        """What identifies the scores of these queries."""
        scored = self.inner.record(queries)
        scored["models"] = scored.pop("counterfactuals")
        return {
            **scored,
            "stderr": "over rounds of a race",
            "top": self.top,
            "delta": self.delta,
            "rounds": list(self.rounds),
            "race_weighting": self.weighting,
        }

    def evaluations(self, queries: Queries) -> int:
        """Network evaluations at most: if every query needs every round."""
        return self.inner.evaluations_of(len(queries) * self.round.strata * self.rounds[1])

    def bytes_per_query(self) -> int:
        """See ``Attributor.bytes_per_query``: also moments of the differences of every two groups."""
        return self.inner.bytes_per_query() + _PAIR_BYTES * len(self.fitted_groups) ** 2

    def work_on(self, device: torch.device, on_batch: Callable[[int], None]) -> None:
        """See ``Attributor.work_on``."""
        self.inner.work_on(device, on_batch)

    def share_with(self, ranks: Ranks) -> None:
        """See ``Attributor.share_with``."""
        self.inner.share_with(ranks)

    def notes(self) -> list[str]:
        """How the last race ended."""
        return self._report

    def _scores(self, queries: Queries, number: int, active: Tensor) -> Tensor:
        """One round: ``[queries, groups]``, NaN where a group is decided."""
        scoring = replace(self.round, seed=self.round.seed + _ROUND * (number + 1))
        rows = active.any(dim=1).nonzero().flatten()
        asked = queries.take(rows.tolist())
        full, groups, timesteps = self.inner.measure(asked, scoring, active[rows])
        plan = scoring.plan(self._schedule)

        def bound(errors: Tensor) -> Tensor:
            return elbo(errors, timesteps, plan, self._schedule, self.weighting)

        scores = torch.full(active.shape, torch.nan, dtype=torch.float64)
        scores[rows] = torch.stack([delta_elbo(bound(full), bound(errors)) for errors in groups], dim=1)
        return scores


def _described(found: Race, top: int, delta: float, strata: int) -> str:
    rounds = found.rounds.max(dim=1).values.double() * strata
    return (
        f"race: the top {top} of {int(found.decisions.done.sum())} of {len(rounds)} queries are known at δ = "
        f"{delta:g}, after {rounds.mean():.0f} timesteps a query on average, {rounds.max():.0f} at most"
    )
