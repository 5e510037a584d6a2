"""Both halves of every group, scored: by clusters of the features of a classifier, and at random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from guda_lightning.attribution import AttributionContext
from guda_lightning.attribution.elbo import likelihood
from guda_lightning.attribution.guidance import FittedGuidance
from guda_lightning.data.grouping import Grouping, Indices
from guda_lightning.functional.clusters import random_halves, two_means
from guda_lightning.posteriors import ClassifierPosterior
from guda_lightning.posteriors.held_out import HeldOut
from guda_lightning.posteriors.recalibration import recalibrate
from guda_lightning.posteriors.regrouped import Regrouped
from guda_lightning.posteriors.trained import TrainedClassifier
from guda_lightning.scores import Scoring
from guda_lightning.storage.files import sha256_json
from guda_lightning.types import Queries, Weighting

LEAST = 4  # samples of each half of a group that is split
_AT_ONCE = 4096  # training samples whose images are held as numbers


@dataclass(frozen=True, kw_only=True)
class Split:
    """Groups, some of them in two halves.

    Attributes:
        grouping: Of every group that is split its halves, of others themselves, in order; names are numbers,
            as those of groups with a word more might be taken.
        two: Whether each group is split.
        sizes: Of every group the samples of its halves; of one that is not split, one number.
    """

    grouping: Grouping
    two: tuple[bool, ...]
    sizes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, grouping: Grouping, features: Tensor, seed: int, *, at_random: bool) -> Split:
        """Split every group whose halves both have enough samples.

        Args:
            grouping: The groups.
            features: ``[samples, features]``, whose two clusters are the halves.
            seed: Of starts and deals.
            at_random: Whether samples are dealt to halves of the same sizes instead.
        """
        members: dict[str, Indices] = {}
        two, sizes = [], []
        table = grouping.membership()
        for column, name in enumerate(grouping.names):
            rows = np.flatnonzero(table[:, column])
            cluster = two_means(features[torch.from_numpy(rows)], seed, name)
            if at_random:
                cluster = random_halves(cluster, seed, name)
            parts = [rows[cluster.numpy() == one] for one in (0, 1)]
            splits = min(map(len, parts)) >= LEAST
            if splits:
                members |= {f"{column}/{one}": part for one, part in enumerate(parts)}
            else:
                members[str(column)] = rows
            two.append(splits)
            sizes.append(tuple(map(len, parts)) if splits else (len(rows),))
        return cls(grouping=Grouping(members, grouping.num_samples), two=tuple(two), sizes=tuple(sizes))


def clean_features(base: TrainedClassifier, context: AttributionContext, seed: int) -> Tensor:
    """``[samples, features]`` of all training images at the lowest noise level that is scored."""
    data, posterior = context.data, base.posterior
    assert data is not None
    at, found = int(posterior.schedule.scored_timesteps[0]), []
    conditional = posterior.network.condition is not None
    for rows in np.array_split(np.arange(len(data.ids)), -(-len(data.ids) // _AT_ONCE)):
        atom = torch.zeros(len(rows), dtype=torch.int64)
        about = (atom, posterior.schedule, conditional, posterior.prompts)
        samples = HeldOut.of_samples(data, rows, *about)
        found.append(
            samples.features(posterior.network, torch.arange(len(rows)), torch.full_like(atom, at), seed)
        )
    return torch.cat(found)


def scores_of(
    base: TrainedClassifier,
    context: AttributionContext,
    split: Split,
    queries: Queries,
    scoring: Scoring,
    weighting: Weighting,
    seed: int,
) -> Tensor:
    """Scores of every half, ``[queries, columns]``, by the classifier recalibrated for them.

    Args:
        base: The trained classifier.
        context: Full model, data and where to compute.
        split: The halves.
        queries: The queries, as the model takes them.
        scoring: How to score.
        weighting: Which scores.
        seed: Of noise and virtual features.
    """
    assert context.data is not None
    data = context.data.regrouped(split.grouping)
    posterior = recalibrate(base, data, Regrouped.of(base.moments, data, seed), seed).posterior
    halves = replace(context, data=data, grouping=split.grouping, cache=None)
    return guided_scores(posterior, base.record.weights_hash, halves, queries, scoring, weighting)


def guided_scores(
    posterior: ClassifierPosterior,
    identity: str,
    context: AttributionContext,
    queries: Queries,
    scoring: Scoring,
    weighting: Weighting,
) -> Tensor:
    """Scores of all groups of a classifier by guidance, ``[queries, groups]``; nothing is kept."""
    names: Sequence[str] = posterior.groups
    hashes = {name: sha256_json([identity, context.full.hash, name]) for name in names}
    fitted = FittedGuidance(
        groups=tuple(names),
        method="guidance",
        seed=0,
        context=context,
        scoring=scoring,
        details=likelihood(hashes, identity, identity, sized=True),
        posterior=posterior,
        removed=posterior.removed([[name] for name in names]),
        folders=(),
    )
    found = fitted.score(queries).select(weighting=weighting)
    return found.matrix()[:, [found.groups.index(name) for name in names]]
