"""What counterfactuals lose on training samples, without an oracle: the evidence of their verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from guda_lightning.attribution.attributor import AttributionContext
from guda_lightning.attribution.counterfactual import CounterfactualAttributor
from guda_lightning.attribution.elbo import FittedELBOAttributor
from guda_lightning.attribution.guidance import FittedGuidance
from guda_lightning.attribution.samples import training_samples
from guda_lightning.data import GroupDataModule
from guda_lightning.functional.elbo import elbo
from guda_lightning.functional.moments import Moments
from guda_lightning.functional.schedule import NoiseSchedule
from guda_lightning.posteriors import GUIDANCE, KINDS, PosteriorRecord, PosteriorStore
from guda_lightning.scores import Evidence, Rise, Scoring
from guda_lightning.types import Queries

SAMPLES = 8  # of every group
OTHERS = 2 * SAMPLES  # of all other groups together
LEVELS, FROM, TO = 6, 0.05, 0.5  # timesteps, and the shares of the scored range that they lie between


@dataclass(frozen=True, eq=False)
class Probes:
    """Training samples that the counterfactuals of a run are tried on; the same for the same data.

    Attributes:
        samples: ``P`` samples as queries, some of every group.
        rows: The rows of each single group's samples, ``[samples]`` int64.
        own: ``[P, groups]`` bool, which of them each counterfactual was to forget.
    """

    samples: Queries
    rows: Mapping[str, Tensor]
    own: Tensor

    @classmethod
    def of(cls, data: GroupDataModule, groups: Sequence[str], conditional: bool) -> Probes:
        """Pick samples of every group.

        Args:
            data: The training data of the full model.
            groups: What the counterfactuals forget, such as ``3`` or ``3+7``.
            conditional: Whether the model takes the samples' labels.
        """
        grouping = data.grouping
        picked = {name: chosen for name, chosen in data.picked(SAMPLES).items() if len(chosen)}
        indices = np.unique(np.concatenate(list(picked.values())))
        coalitions = [grouping.coalition(group) for group in groups]
        for coalition in coalitions:
            if not len(np.setdiff1d(indices, grouping.forget(coalition))):  # the rest is in no other group
                indices = np.union1d(indices, grouping.retain(coalition)[:OTHERS])
        samples = training_samples(data, indices, conditional)
        own = [np.isin(indices, grouping.forget(coalition)) for coalition in coalitions]
        rows = {name: torch.from_numpy(np.searchsorted(indices, chosen)) for name, chosen in picked.items()}
        return cls(samples, rows, torch.from_numpy(np.stack(own, axis=1)))

    def others(self, column: int) -> Tensor:
        """``[P]`` bool: at most ``OTHERS`` samples that a counterfactual was to keep, of all groups."""
        kept = (~self.own[:, column]).nonzero().flatten()
        chosen = torch.linspace(0, len(kept) - 1, min(OTHERS, len(kept))).round().long()
        return self._mask(kept[chosen])

    def neighbours(self, rises: Tensor, full: Tensor) -> list[str | None]:
        """The single group that each counterfactual was to keep and that is expected to lose most.

        Args:
            rises: ``[groups, P]``, by how much losses are expected to rise.
            full: ``[P]`` losses of the full model.

        Returns:
            Its name, one for each counterfactual; None where no sample is of a single group to be kept.
        """
        names, kept = list(self.rows), (~self.own).double()
        of_name = torch.stack([self._mask(self.rows[name]) for name in names]).double()
        shares = (of_name @ (rises.T * kept)) / (of_name @ (full[:, None] * kept))  # [names, groups]
        shares = shares.nan_to_num(nan=-torch.inf)
        return [
            names[int(best)] if worst > -torch.inf else None
            for worst, best in zip(*shares.max(dim=0), strict=True)
        ]

    def kept_of(self, name: str, column: int) -> Tensor:
        """``[P]`` bool: the samples of another group that a counterfactual was to keep."""
        return self._mask(self.rows[name]) & ~self.own[:, column]

    def wanted(self, column: int, neighbour: str | None) -> Tensor:
        """``[P]`` bool: all samples that a counterfactual is tried on."""
        found = self.own[:, column] | self.others(column)
        return found if neighbour is None else found | self.kept_of(neighbour, column)

    def _mask(self, rows: Tensor) -> Tensor:
        return torch.zeros(len(self.own), dtype=torch.bool).index_fill(0, rows, True)


def probing(schedule: NoiseSchedule, like: Scoring) -> Scoring:
    """One draw at every middle noise level, in the batches and the precision of a scoring.

    Smaller levels tell models apart by noise, larger ones hardly at all.
    """
    last = len(schedule.scored_timesteps) - 1
    low, high = (int(schedule.scored_timesteps[round(share * last)]) for share in (FROM, TO))
    step = max(1, (high - low) // (LEVELS - 1))
    stop = min(low + LEVELS * step, int(schedule.scored_timesteps[-1]) + 1)
    return replace(like, grid=(low, stop, step), draws=1)


def predictor_of(attributor: FittedELBOAttributor) -> FittedELBOAttributor | None:
    """What predicts the losses of counterfactuals: the posterior of their store; guidance is its own.

    Returns:
        It, fitted to the same groups; None where there is none.
    """
    if isinstance(attributor, FittedGuidance):
        return attributor
    return predictor_in(attributor.context, attributor.seed, attributor.groups, attributor.scoring)


def predictor_in(
    context: AttributionContext, seed: int, groups: Sequence[str], scoring: Scoring
) -> FittedELBOAttributor | None:
    """The ``posterior_in`` of a context, fitted to some groups; None where there is none.

    Args:
        context: Full model, groups and store.
        seed: As for ``posterior_in``.
        groups: To fit it to.
        scoring: Batch size and precision.
    """
    record = posterior_in(context, seed)
    if record is None:
        return None
    hparams = record.hparams_hash
    return CounterfactualAttributor(
        None, record.kind, scoring, seed=record.seed, hparams=hparams, groups=groups
    ).fit(context)


def posterior_in(context: AttributionContext, seed: int) -> PosteriorRecord | None:
    """The posterior of a store whose sizes are right, of the full model, schedule and groups of a context.

    Guidance where there is one, else a classifier.

    Args:
        context: Full model, groups and store.
        seed: Of several posteriors one of this seed, or else of the lowest.
    """
    if context.store is None:
        return None
    origin = context.provenance.to_json().items()
    fitting = [
        record
        for record in PosteriorStore(context.store).records()
        if KINDS[record.kind].posterior.sized
        and all(getattr(record, name) == value for name, value in origin)
    ]

    def order(one: PosteriorRecord) -> tuple[bool, bool, int, str]:
        return one.kind != GUIDANCE, one.seed != seed, one.seed, one.hparams_hash

    return min(fitting, key=order, default=None)


def posterior_of(predictor: FittedELBOAttributor) -> str | None:
    """Identity of the posterior that a predictor follows from."""
    return predictor.details.classifier


def probe_evaluations(attributor: FittedELBOAttributor, data: GroupDataModule, predicted: bool) -> int:
    """Network evaluations that ``probe`` takes, at most.

    Args:
        attributor: The counterfactuals.
        data: The training data of the full model.
        predicted: Whether there is a posterior.
    """
    schedule, groups = attributor.context.full.model.schedule, len(attributor.groups)
    samples = sum(min(SAMPLES, data.grouping.size(name)) for name in data.grouping.names)
    if isinstance(attributor, FittedGuidance):
        passes = samples
    else:
        each = min(samples, OTHERS + (2 if predicted else 1) * SAMPLES)
        passes = samples * (2 if predicted else 1) + groups * each
    return passes * probing(schedule, attributor.scoring).plan(schedule).evaluations


def probe(
    attributor: FittedELBOAttributor, data: GroupDataModule, predictor: FittedELBOAttributor | None
) -> dict[str, Evidence]:
    """Measure what every counterfactual loses on training samples, beside what the posterior predicts.

    All processes call this, and all get the same.

    Args:
        attributor: The counterfactuals.
        data: The training data of the full model.
        predictor: As ``predictor_of`` gives it.

    Returns:
        Group to what was measured.
    """
    model, groups = attributor.context.full.model, attributor.groups
    probes = Probes.of(data, groups, model.conditional)
    scoring = probing(model.schedule, attributor.scoring)

    def losses(of: FittedELBOAttributor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """In nats over the levels: ``[P]`` of the full model, ``[groups, P]`` of the counterfactuals."""
        full, errors, timesteps = of.measure(probes.samples, scoring, wanted)
        found = [losses_of(one, timesteps, model.schedule, scoring) for one in (full, *errors)]
        return found[0], torch.stack(found[1:])

    predicted: Tensor | None = None
    neighbours: list[str | None] = [None] * len(groups)
    if predictor is not None:
        full, predicted = losses(predictor, torch.ones_like(probes.own))
        neighbours = probes.neighbours(predicted - full, full)
    wanted = [probes.wanted(column, neighbour) for column, neighbour in enumerate(neighbours)]
    if predictor is attributor and predicted is not None:
        found, predicted = predicted, None  # guidance is what it predicts
    else:
        full, found = losses(attributor, torch.stack(wanted, dim=1))
    evidence = {}
    for column, (group, neighbour) in enumerate(zip(groups, neighbours, strict=True)):

        def rise(rows: Tensor, column: int = column) -> Rise:
            expected = None if predicted is None else predicted[column, rows]
            return _rise(found[column, rows], full[rows], expected)

        evidence[group] = Evidence(
            forget=rise(probes.own[:, column]),
            retain=rise(probes.others(column)),
            neighbour=None if neighbour is None else rise(probes.kept_of(neighbour, column)),
            neighbour_name=neighbour,
            last_quarter=attributor.last_quarter(group),
        )
    return evidence


def losses_of(errors: Tensor, timesteps: Tensor, schedule: NoiseSchedule, scoring: Scoring) -> Tensor:
    """``[samples]`` in nats over the levels, from squared errors ``[samples, levels, 1]``."""
    return -elbo(errors, timesteps, scoring.plan(schedule), schedule, "elbo")


def _rise(losses: Tensor, full: Tensor, predicted: Tensor | None) -> Rise:
    """Losses ``[samples]`` on the same noise as ``Rise``; the error of a single sample is all of it."""
    moments, scale = Moments.of(losses - full), float(full.mean())
    mean = float(moments.mean) / scale
    stderr = float(moments.stderr) / scale if len(full) > 1 else abs(mean)
    return Rise(mean, stderr, None if predicted is None else float((predicted - full).mean()) / scale)
