"""Scores that stop early: evaluations are spent only where a query's top groups are still open."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from guda_lightning.attribution.attributor import (
    AttributionContext,
    Attributor,
    FittedAttributor,
    refuse_no_queries,
)
from guda_lightning.attribution.counterfactual import CounterfactualAttributor
from guda_lightning.attribution.elbo import FittedELBOAttributor
from guda_lightning.functional.elbo import delta_elbo, elbo
from guda_lightning.functional.racing import Race, boundary, race
from guda_lightning.posteriors import GUIDANCE
from guda_lightning.scores import ScoreRecord, ScoreTable, kinds
from guda_lightning.scores.scoring import Scoring
from guda_lightning.types import Queries, Weighting

_ROUND = 2**32  # between the noise seeds of two rounds
_PAIR_BYTES = 96  # three numbers, and what a round computes them from


@dataclass(frozen=True)
class RacingAttributor(Attributor):
    """Scores of counterfactuals whose rounds end for a query when its top groups are known.

    A round is one draw of a few strata. ``n_draws`` of the table says what each score took. Scores of groups
    that were decided early are less precise, and say which groups lead rather than by how much.

    Args:
        store: Folder of the store; None takes that of the context.
        operator: Whose counterfactuals, such as ``guidance`` or ``retrack``.
        top: Size k of the set of leading groups that is to be known.
        delta: Allowed error δ of a query, for rounds that are about normal.
        strata: Timesteps in a round.
        rounds: Rounds before the first decision, and rounds at most.
        weighting: The weighting of the race.
        scoring: Seed, batch size and precision; its strata, draws and grid are not used.
        seed: Seed of the counterfactuals.
    """

    store: str | Path | None = None
    operator: str = GUIDANCE
    top: int = 1
    delta: float = 0.05
    strata: int = 10
    rounds: tuple[int, int] = (3, 20)
    weighting: Weighting = "uniform"
    scoring: Scoring = Scoring()  # noqa: RUF009  (frozen)
    seed: int = 0

    def fit(self, context: AttributionContext) -> FittedRace:
        """Find the counterfactuals.

        Args:
            context: The full model and its groups; without a grouping, the groups are those of the store.

        Raises:
            StoreError: One is missing or made from something else.
            ConfigError: There are not more groups than are to be found, or an argument is out of range.
        """
        one_round = replace(self.scoring, strata=self.strata, draws=1, grid=None)
        one_round.plan(context.full.model.schedule)
        inner = CounterfactualAttributor(self.store, self.operator, one_round, seed=self.seed).fit(context)
        first, last = self.rounds
        boundary(len(inner.groups), k=self.top, delta=self.delta, rounds_min=first, rounds_max=last)
        return FittedRace(
            groups=inner.groups, method=f"{inner.method}_race", seed=self.seed, inner=inner, config=self
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class FittedRace(FittedAttributor):
    """A race of the groups of every query.

    Attributes:
        inner: Scores of one round.
        config: Rules of the race.
    """

    inner: FittedELBOAttributor
    config: RacingAttributor

    def score(self, queries: Queries) -> ScoreTable:
        """Race the groups of every query.

        Args:
            queries: ``Q`` queries, the same on all ranks.

        Returns:
            ``Q × groups`` rows of one weighting, with a note on how the race ended.

        Raises:
            QueryError: There are no queries.
        """
        refuse_no_queries(queries)
        rules = self.config
        first, last = rules.rounds
        found = race(
            lambda number, active: self._scores(queries, number, active),
            len(queries),
            len(self.groups),
            k=rules.top,
            delta=rules.delta,
            rounds_min=first,
            rounds_max=last,
        )
        table = ScoreTable.from_matrix(
            found.scores,
            found.stderr,
            query_ids=queries.ids,
            groups=self.groups,
            n_draws=found.rounds * rules.strata,
            method=self.method,
            weighting=rules.weighting,
            seed=self.seed,
            record=self.record(queries),
        )
        return replace(table, notes=(_described(found, rules),))

    def record(self, queries: Queries) -> ScoreRecord:
        """What identifies the scores of these queries: those of a round, and the rules of the race."""
        scored, made, rules = self.inner.record(queries), self.inner.details, self.config
        details = kinds.Race(
            models=made.counterfactuals,
            hparams_hash=made.hparams_hash,
            classifier=made.classifier,
            sized=made.sized,
            weightings=made.weightings,
            top=rules.top,
            delta=rules.delta,
            rounds=rules.rounds,
            race_weighting=rules.weighting,
        )
        return scored.of_kind(details, "over rounds of a race")

    def made(self) -> tuple[Path, ...]:
        """What scores the groups by itself reads."""
        return self.inner.made()

    def evaluations(self, queries: Queries) -> int:
        """Network evaluations at most: if every query needs every round."""
        return self.inner.evaluations_of(len(queries) * self.config.strata * self.config.rounds[1])

    def bytes_per_query(self) -> int:
        """About how much memory ``score`` needs for every query: also moments of differences of groups."""
        return self.inner.bytes_per_query() + _PAIR_BYTES * len(self.groups) ** 2

    def _scores(self, queries: Queries, number: int, active: Tensor) -> Tensor:
        """One round: ``[queries, groups]``, NaN where a group is decided."""
        one_round, schedule = self.inner.scoring, self.inner.context.full.model.schedule
        scoring = replace(one_round, seed=one_round.seed + _ROUND * (number + 1))
        rows = active.any(dim=1).nonzero().flatten()
        full, groups, timesteps = self.inner.measure(queries.take(rows.tolist()), scoring, active[rows])
        plan = scoring.plan(schedule)

        def bound(errors: Tensor) -> Tensor:
            return elbo(errors, timesteps, plan, schedule, self.config.weighting)

        scores = torch.full(active.shape, torch.nan, dtype=torch.float64)
        scores[rows] = torch.stack([delta_elbo(bound(full), bound(errors)) for errors in groups], dim=1)
        return scores


def _described(found: Race, rules: RacingAttributor) -> str:
    rounds = found.rounds.max(dim=1).values.double() * rules.strata
    return (
        f"race: the top {rules.top} of {int(found.decisions.done.sum())} of {len(rounds)} queries are known "
        f"at δ = {rules.delta:g}, after {rounds.mean():.0f} timesteps a query on average, "
        f"{rounds.max():.0f} at most"
    )
