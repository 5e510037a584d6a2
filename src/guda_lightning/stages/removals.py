"""Models retrained without groups that should leave the data, and without as many random samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from guda_lightning.attribution import AttributionContext, CounterfactualAttributor
from guda_lightning.data.grouping import Grouping
from guda_lightning.evaluation.curation import AFTER, RANDOM
from guda_lightning.makers.maker import name_of
from guda_lightning.makers.retrainer import Retrainer
from guda_lightning.progress_bar import Bar
from guda_lightning.scores import Scoring
from guda_lightning.storage.files import sha256_json
from guda_lightning.types import Queries, Weighting


@dataclass(frozen=True, kw_only=True)
class Removals:
    """Two models for each seed.

    Attributes:
        maker: Trains without the groups.
        context: The full model, the data and where to compute.
        groups: What is removed together, sorted.
        seeds: Of the trainings, and of which random samples are removed.
        scoring: How the queries are scored.
        queries: What is scored.
        weighting: Of timesteps.
        folder: For the models without random samples.
    """

    maker: Retrainer
    context: AttributionContext
    groups: Sequence[str]
    seeds: Sequence[int]
    scoring: Scoring
    queries: Queries
    weighting: Weighting
    folder: Path

    @property
    def arms(self) -> dict[tuple[str, int], tuple[Retrainer, tuple[str, ...]]]:
        """By removal and seed: what makes the model, and the groups that it never sees."""
        data = self.maker.data
        found: dict[tuple[str, int], tuple[Retrainer, tuple[str, ...]]] = {}
        size = len(data.grouping.forget(self.groups))
        for seed in self.seeds:
            maker = replace(self.maker, seed=seed, trainers=self.maker.trainers.silent())
            found[AFTER, seed] = maker, tuple(self.groups)
            name = f"{size} random samples {seed}"
            order = np.random.default_rng([seed, size]).permutation(data.grouping.num_samples)
            view = data.regrouped(Grouping({name: order[:size]}, data.grouping.num_samples))
            found[RANDOM, seed] = maker.elsewhere(view, self.folder / f"{size}-{seed}"), (name,)
        return found

    @property
    def left(self) -> int:
        """Number of models that are not trained yet."""
        return sum(not maker.has(groups) for maker, groups in self.arms.values())

    def rises(self, bar: Bar) -> dict[tuple[str, int], Tensor]:
        """Train what is left, and score all: ``[queries]``, each model's loss minus the full model's.

        Args:
            bar: Counts models that are trained.
        """
        found = {}
        for arm, (maker, groups) in self.arms.items():
            if not maker.has(groups):
                maker.make(groups)
                bar.update()
            found[arm] = self._rise(maker, groups)
        return found

    def _rise(self, maker: Retrainer, groups: Sequence[str]) -> Tensor:
        grouping, hparams = maker.data.grouping, sha256_json(dict(maker.hparams))
        context = replace(self.context, data=maker.data, grouping=grouping, store=maker.store.root)
        attributor = CounterfactualAttributor(
            None,
            maker.operator,
            self.scoring,
            seed=maker.seed,
            hparams=hparams,
            groups=[name_of(groups)],
        )
        table = attributor.fit(context).score(self.queries)
        return table.select(weighting=self.weighting).matrix()[:, 0]
