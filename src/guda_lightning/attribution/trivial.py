"""Trivial rivals that ask no network: scores without attribution, which every table has to beat."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from guda_lightning.attribution.attributor import (
    AttributionContext,
    Attributor,
    FittedAttributor,
    refuse_no_queries,
    sizes_of,
    training_data,
)
from guda_lightning.attribution.elbo import scored_groups
from guda_lightning.data import query_hash
from guda_lightning.errors import GroupError, check_range
from guda_lightning.functional.noise import gaussian_noise, seed_of
from guda_lightning.scores import ScoreRecord, ScoreTable
from guda_lightning.scores.kinds import CONTENT, Custom
from guda_lightning.storage.provenance import Provenance
from guda_lightning.types import Queries


@dataclass(frozen=True)
class RandomScores(Attributor):
    """Standard normal numbers, one for each query and group: what agrees with anything by chance.

    Args:
        seed: Seed of the numbers, which depend on it, the query's image and the group's name alone.
        groups: Groups to score, such as ``3`` or, as one, ``3+7``; None takes all that have samples.
    """

    seed: int = 0
    _: KW_ONLY
    groups: Sequence[str] | None = None

    def __post_init__(self) -> None:
        check_range("seed", self.seed, ge=0, fix="take the usual 0")

    def fit(self, context: AttributionContext) -> FittedTrivial:
        """Take the names of the groups.

        Args:
            context: The training data and, if they are not its own, their groups.

        Raises:
            ConfigError: There are no training data.
            GroupError: The groups are those of other data, or one does not exist or cannot be removed.
        """
        groups = groups_of(context, "random", self.groups)
        numbers = torch.tensor([seed_of(group, bits=31) for group in groups])

        def draw(queries: Queries) -> Tensor:
            keys = [key for key in queries.noise_keys for _ in groups]
            at = numbers.repeat(len(queries))
            return gaussian_noise(self.seed, keys, at, torch.zeros_like(at), ()).view(len(queries), -1)

        entries = {"noise": CONTENT}
        return FittedTrivial.of(context, "random", "random", groups, draw, seed=self.seed, entries=entries)


@dataclass(frozen=True)
class GroupSize(Attributor):
    """The number of training samples of a group, whatever the query.

    Args:
        groups: Groups to score, such as ``3`` or, as one, ``3+7``; None takes all that have samples.
    """

    groups: Sequence[str] | None = None

    def fit(self, context: AttributionContext) -> FittedTrivial:
        """Count.

        Args:
            context: The training data and, if they are not its own, their groups.

        Raises:
            ConfigError: There are no training data.
            GroupError: The groups are those of other data, one does not exist or cannot be removed, or all
                have the same size.
        """
        groups = groups_of(context, "group_size", self.groups)
        sizes = sizes_of(training_data(context, "group_size")[1], groups)
        if len(set(sizes.values())) == 1:
            raise GroupError(
                "the size of these groups ranks none of them",
                found=f"{len(groups)} of {sizes[groups[0]]} samples",
                expected="groups of different sizes",
                fix="leave group_size out",
            )
        row = torch.tensor([[float(sizes[group]) for group in groups]])

        def count(queries: Queries) -> Tensor:
            return row.repeat(len(queries), 1)

        return FittedTrivial.of(context, "group_size", "samples", groups, count)


@dataclass(frozen=True, eq=False, kw_only=True)
class FittedTrivial(FittedAttributor):
    """Scores that a function of the queries gives, without standard errors.

    Attributes:
        weighting: What they are, as the table's weighting.
        measure: From ``Q`` queries to ``[Q, groups]``.
        base: What identifies the scores of no queries in particular.
        folders: Where the posterior that it reads and its parts are stored, if it reads one.
    """

    weighting: str
    measure: Callable[[Queries], Tensor]
    base: ScoreRecord
    folders: tuple[Path, ...] = ()

    def made(self) -> tuple[Path, ...]:
        """The folders of the posterior and its parts."""
        return self.folders

    @classmethod
    def of(
        cls,
        context: AttributionContext,
        method: str,
        weighting: str,
        groups: tuple[str, ...],
        measure: Callable[[Queries], Tensor],
        *,
        seed: int = 0,
        provenance: Provenance | None = None,
        entries: Mapping[str, Any] = {},
        folders: tuple[Path, ...] = (),
    ) -> FittedTrivial:
        """Scores of a method that are identified by groups, seed and some entries."""
        _, grouping = training_data(context, method)
        base = ScoreRecord(
            Custom(entries={"method": method, "seed": seed, **entries}),
            provenance=provenance,
            grouping_hash=grouping.hash,
            group_sizes=sizes_of(grouping, groups),
        )
        return cls(
            groups=groups,
            method=method,
            seed=seed,
            weighting=weighting,
            measure=measure,
            base=base,
            folders=folders,
        )

    def score(self, queries: Queries) -> ScoreTable:
        """Score every query against every group.

        Args:
            queries: ``Q`` queries.

        Returns:
            ``Q × groups`` rows of one weighting, without standard errors.

        Raises:
            QueryError: There are no queries.
        """
        refuse_no_queries(queries)
        scores = self.measure(queries)
        return ScoreTable.from_matrix(
            scores,
            torch.zeros_like(scores),
            query_ids=queries.ids,
            groups=self.groups,
            n_draws=1,
            method=self.method,
            weighting=self.weighting,
            seed=self.seed,
            record=self.record(queries),
        )

    def record(self, queries: Queries) -> ScoreRecord:
        """What identifies the scores of these queries."""
        return replace(self.base, query_hash=query_hash(queries), encoders=queries.encoders)


def groups_of(context: AttributionContext, method: str, chosen: Sequence[str] | None) -> tuple[str, ...]:
    """The groups that are scored, as ``scored_groups`` gives them.

    Raises:
        ConfigError: There are no training data.
        GroupError: The groups are those of other data, or one does not exist or cannot be removed.
    """
    training_data(context, method)  # refuses what has no groups
    return scored_groups(context, chosen)
