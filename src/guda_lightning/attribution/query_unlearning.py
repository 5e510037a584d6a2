"""Attribution by unlearning the query: which training samples become harder when a query is forgotten."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import KW_ONLY, asdict, dataclass, field, replace

import numpy as np

from guda_lightning.attribution.ascents import Ascent, Site
from guda_lightning.attribution.attributor import AttributionContext, Attributor, training_data
from guda_lightning.attribution.elbo import scored_groups
from guda_lightning.attribution.fitted_query_unlearning import FittedQueryUnlearning
from guda_lightning.attribution.gradients.flat import FlatModel, refuse_spread
from guda_lightning.attribution.preconditioned_ascent import PreconditionedAscent
from guda_lightning.attribution.samples import seen_count
from guda_lightning.data.grouping import Indices
from guda_lightning.errors import ConfigError, check_range
from guda_lightning.functional.elbo import stderr_kind
from guda_lightning.functional.rises import OF_MEMBERS
from guda_lightning.functional.timesteps import TimestepPlan
from guda_lightning.scores.kinds import CONTENT, Influence
from guda_lightning.scores.record import ScoringRecord


@dataclass(frozen=True)
class QueryUnlearning(Attributor):
    """Rise of the losses of a group's samples when the query is forgotten.

    A copy of the full model forgets one query; what becomes harder with it is what the query came from. Two
    published methods are choices of the options: AbU (Wang et al. 2024, arXiv 2406.09408), a preconditioned
    step, plain differences, noise of every sample's own; and MUCS (arXiv 2605.17938), bounded fine-tuning,
    skewed differences, the same noise for all samples, the noisier 70 % of timesteps. Published are scores of
    single samples; the sum over a group, estimated from some of its members, its standard error, and noise
    that is a pure function of seed, sample and timestep are ours. How far they agree with retraining
    is not measured yet on queries that their options were not chosen on.

    Scores are positive where the loss rises: the group contributed. They have no known size. Their standard
    errors cover the noise on the members and their draw, not the noise by which the query was forgotten.

    Costs a forward pass for each (query, member of some group, draw of noise), beside the forgetting itself.

    Args:
        ascent: How a query is forgotten, which also names the method.
        skewed: Whether losses are compared by ``(L′ − L)/(L′ + L + 0.001)``, of mean squares (weighting
            ``skew``), or by their difference (weighting ``loss``).
        shared_noise: Whether all samples have the same noise and timesteps, as in MUCS, or each its own.
        noisier: Share of the timesteps that samples are compared at, from the end of most noise.
        members: Images of each group that are compared, at most; mirrored copies of a training that mirrors
            count by themselves. Groups share theirs where they overlap.
        strata: Strata of timesteps, equally many in each.
        draws: Noise draws a stratum; one has a conservative standard error.
        weights: Parts of the names of the weights that may change, such as ``attn2.to_k``; all if empty.
        batch_size: Network evaluations at a time; changes no score but by rounding.
        seed: Seed of noise, members and training samples that an ascent draws.
        groups: Groups to score, such as ``3`` or, as one, ``3+7``; None takes all that have samples.
    """

    ascent: Ascent = field(default_factory=PreconditionedAscent)
    skewed: bool = False
    shared_noise: bool = False
    noisier: float = 1.0
    members: int = 32
    strata: int = 5
    draws: int = 2
    _: KW_ONLY
    weights: Sequence[str] = ()
    batch_size: int = 256
    seed: int = 0
    groups: Sequence[str] | None = None

    def __post_init__(self) -> None:
        check_range("noisier", self.noisier, gt=0, le=1, fix="take 0.7, as MUCS does, or 1 for all timesteps")
        check_range("members", self.members, ge=2, fix="take 32: one member has no standard error")
        check_range("batch_size", self.batch_size, ge=1, fix="take 256")

    def fit(self, context: AttributionContext) -> FittedQueryUnlearning:
        """Draw each group's members and refuse what does not fit; nothing is computed yet.

        Args:
            context: The full model, the training data and, if not their own, the groups.

        Raises:
            ConfigError: There are no training data, the timesteps do not fit the schedule, no weight has
                such a name, the model is spread over processes, or the ascent does not fit it.
            GroupError: The groups are those of other data, or one does not exist or cannot be removed.
        """
        method = self.ascent.method
        data, grouping = training_data(context, method)
        groups = scored_groups(context, self.groups)
        model = context.full.model
        plan = TimestepPlan.even(model.schedule, self.strata, self.draws, self.noisier)
        refuse_spread(model, context.execution, method)
        copied = replace(model, denoiser=copy.deepcopy(model.denoiser).eval().to(context.execution.device))
        flat = FlatModel(copied, self._is_chosen)
        if not flat.size:
            raise ConfigError(
                f"{method} has no weights to unlearn with",
                found=f"weights {list(self.weights)}, which are in no name",
                expected=f"parts of names such as {next(iter(model.denoiser.state_dict()), '')!r}",
                fix="correct weights, or leave them out for all",
            )
        site = Site(copied, flat, data, self.seed, self.batch_size, context.execution)
        self.ascent.check(site)
        forgotten = [grouping.forget(grouping.coalition(name)) for name in groups]
        sizes = [len(samples) * seen_count(data) // len(data.ids) for samples in forgotten]
        rows, members = self._members(forgotten, len(data.ids), seen_count(data))
        sampled = any(len(of_group) < size for of_group, size in zip(members, sizes, strict=True))
        error = f"{stderr_kind(plan)} {OF_MEMBERS}" if sampled else stderr_kind(plan)
        options = {**asdict(self), "ascent": {"class": type(self.ascent).__name__, **asdict(self.ascent)}}
        return FittedQueryUnlearning(
            groups=groups,
            method=method,
            seed=self.seed,
            context=context,
            site=site,
            ascent=self.ascent,
            plan=plan,
            skewed=self.skewed,
            shared_noise=self.shared_noise,
            rows=rows,
            members=members,
            sizes=dict(zip(groups, map(len, forgotten), strict=True)),
            details=Influence(
                data_hash=data.hash,
                mirrored=data.horizontal_flip,
                options={name: value for name, value in options.items() if name not in _NO_OPTIONS},
            ),
            scoring=ScoringRecord(self.seed, plan.record(), error, "fp32", CONTENT),
        )

    def _is_chosen(self, name: str) -> bool:
        return not self.weights or any(part in name for part in self.weights)

    def _members(
        self, forgotten: Sequence[Indices], samples: int, images: int
    ) -> tuple[Indices, list[Indices]]:
        """Numbers of all images that are compared, sorted, and where each group's stand among them.

        A group takes the first of its images in one random order of all: groups that overlap share members.
        """
        place = np.random.default_rng(self.seed).permutation(images)
        chosen = []
        for of_group in forgotten:
            seen = np.concatenate([of_group + start for start in range(0, images, samples)])
            chosen.append(seen[np.argsort(place[seen])[: self.members]])
        rows = np.unique(np.concatenate(chosen))
        return rows, [np.searchsorted(rows, np.sort(one)) for one in chosen]


_NO_OPTIONS = {"groups", "batch_size", "seed"}  # of the record, which has groups and seed elsewhere
