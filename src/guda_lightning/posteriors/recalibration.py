"""A classifier of other groups than it was trained on: its features stay, its head gets new rows.

Calibration with virtual representations (Luo et al., NeurIPS 2021, arXiv 2106.05001) with what this package
adds: classes are *atoms*, so a group that is removed, renamed or made of others keeps the rows of its atoms
as they are, and where no class is new, ``p(atom | x_t, not removed)`` is exactly what the trained classifier
says. Classes that it has never told apart get rows of their own, from the features of their own samples
beside virtual features of all others, and temperatures are fitted anew, for all classes.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from guda_lightning.data import GroupDataModule
from guda_lightning.functional.class_moments import ClassMoments
from guda_lightning.functional.heads import fit_rows
from guda_lightning.posteriors.classifier_posterior import ClassifierPosterior
from guda_lightning.posteriors.feature_moments import (
    NOISE_LEVELS,
    SEEN,
    FeatureMoments,
    draws_of,
    hashed,
    level_features,
    seen_rows,
)
from guda_lightning.posteriors.held_out import HeldOut
from guda_lightning.posteriors.regrouped import Regrouped
from guda_lightning.posteriors.tempering import NoiseLevel, temper
from guda_lightning.posteriors.trained import TrainedClassifier, explained

_VIRTUAL = 2**16  # features of all classes and levels, in place of those of samples
_LEAST, _MOST = 8, 256  # of each class and level
WORST_LOSS = 0.1  # of the entropy of the groups' frequencies that may be explained less than by training


@dataclass(frozen=True, kw_only=True)
class Recalibrated:
    """A classifier of new groups, and how well it does.

    Attributes:
        posterior: The classifier, on the device of the trained one.
        moments: Of its features: it can be given other groups in turn.
        levels: How well it does on the held-out samples of new classes and virtual features of the others;
            where all classes stay, what is known of the trained one.
        explained: See ``explained``.
        evaluations: Samples that went through the network.
        tested_on_trained: Classes that ``levels`` judge by samples, or moments of samples, that were learnt
            from: there are no others.
    """

    posterior: ClassifierPosterior
    moments: FeatureMoments
    levels: tuple[NoiseLevel, ...]
    explained: float
    evaluations: int
    tested_on_trained: int


def recalibrate(base: TrainedClassifier, data: GroupDataModule, to: Regrouped, seed: int) -> Recalibrated:
    """Give a trained classifier other groups.

    Args:
        base: The trained classifier.
        data: The training data under the new groups.
        to: What the groups keep of it.
        seed: Of noise and virtual features.
    """
    old, before = base.posterior, base.moments
    trained, tested = (moments.take(to.kept) for moments in (before.trained, before.tested))
    network = copy.deepcopy(old.network)
    head = network.head.cpu()
    weight, bias = (rows.detach().double()[to.kept] for rows in (head.weight, head.bias))
    fresh = _Fresh.of(old, data, to, seed)
    if to.new:
        features, classes, importance = _all_features(trained, fresh, to, seed)
        weight, bias = fit_rows(weight, bias, to.new, features, classes, importance)
    levels, on_trained = base.levels, base.record.tested_on_trained
    if to.new or len(to.kept) < len(before.trained.count):
        on_trained = to.tested_on_trained + int((tested.count == 0).sum())
        levels = _tested(base, _with_means(tested, trained), fresh, to, weight, bias, seed)
    temperatures = old.temperatures.clone()
    for level in levels:
        temperatures[level.first : level.last + 1] = level.temperature
    trained = trained.together(ClassMoments.of(fresh.learnt, fresh.learnt_class, to.new))
    tested = tested.together(ClassMoments.of(fresh.tested, fresh.tested_class, to.new))
    network.head = nn.Linear(weight.shape[1], len(weight))
    network.head.weight.data, network.head.bias.data = weight.float(), bias.float()
    network.eval().requires_grad_(False).to(old.temperatures.device)
    atoms = to.atoms.to(old.atoms.device)
    posterior = replace(
        old, network=network, atoms=atoms, groups=data.grouping.names, temperatures=temperatures
    )
    return Recalibrated(
        posterior=posterior,
        moments=_moments_after(before, data, to, trained, tested),
        levels=levels,
        explained=explained(levels, to.sizes),
        evaluations=NOISE_LEVELS * (fresh.learnt.shape[1] + fresh.tested.shape[1]),
        tested_on_trained=on_trained,
    )


@dataclass(frozen=True, kw_only=True)
class _Fresh:
    """Features of the samples of new classes, ``[levels, samples, features]``, and the class of each."""

    learnt: Tensor
    learnt_class: Tensor
    tested: Tensor
    tested_class: Tensor
    draws: int

    @classmethod
    def of(cls, posterior: ClassifierPosterior, data: GroupDataModule, to: Regrouped, seed: int) -> _Fresh:
        def features(chosen: Tensor) -> tuple[Tensor, Tensor, int]:
            positions = chosen.nonzero()[:, 0]
            positions = positions[seen_rows(to.new_class[positions])]
            draws = draws_of(len(positions))
            samples = HeldOut.of_samples(
                data,
                to.fresh[positions.numpy()],
                to.new_class[positions],
                posterior.schedule,
                posterior.network.condition is not None,
                posterior.prompts,
            )
            found = level_features(samples, posterior.network, posterior.schedule, draws, seed)
            return found, samples.atom.repeat_interleave(draws), draws

        learnt, learnt_class, _ = features(~to.held_out)
        tested, tested_class, draws = features(to.held_out)
        return cls(
            learnt=learnt,
            learnt_class=learnt_class,
            tested=tested,
            tested_class=tested_class,
            draws=draws,
        )


def _all_features(
    trained: ClassMoments, fresh: _Fresh, to: Regrouped, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Features of all classes and levels, their classes, and what each counts for.

    A class counts as much as it has samples, whatever the number of its features.
    """
    old = len(to.kept)
    number = max(_LEAST, min(_MOST, _VIRTUAL // (NOISE_LEVELS * max(1, old))))
    virtual = trained.virtual(torch.full((old,), number), seed).to(fresh.learnt.dtype)
    classes = torch.cat([torch.arange(old).repeat_interleave(number), old + fresh.learnt_class])
    features = torch.cat([virtual, fresh.learnt], dim=1)
    each = to.sizes.double() / torch.bincount(classes, minlength=len(to.sizes)).clamp_min(1)
    return features.flatten(0, 1), classes.repeat(NOISE_LEVELS), each[classes].repeat(NOISE_LEVELS)


def _with_means(tested: ClassMoments, trained: ClassMoments) -> ClassMoments:
    """Of held-out samples, and where a class has none, the mean of those that it was trained on."""
    if not float(tested.count.sum()):
        return trained
    return replace(tested, mean=torch.where(tested.count[:, None] > 0, tested.mean, trained.mean))


def _tested(
    base: TrainedClassifier,
    tested: ClassMoments,
    fresh: _Fresh,
    to: Regrouped,
    weight: Tensor,
    bias: Tensor,
    seed: int,
) -> tuple[NoiseLevel, ...]:
    """How well a head does at every noise level; temperatures are fitted where there are new classes."""
    old, held_out = len(to.kept), to.held_out if to.new else base.moments.held_out
    # As many of each class as if all held-out samples were there and noised as often as those of new ones.
    counts = to.sizes[:old] * held_out.double().mean() * fresh.draws
    counts = (counts * min(1, SEEN / max(1.0, float(counts.sum())))).round().long().clamp_min(1)
    virtual = tested.virtual(counts, seed + 1).to(fresh.tested.dtype)
    classes = torch.cat([torch.arange(old).repeat_interleave(counts), old + fresh.tested_class])
    features, found = torch.cat([virtual, fresh.tested], dim=1).double(), []
    parts = base.posterior.schedule.scored_timesteps.tensor_split(NOISE_LEVELS)
    for part, of_level, known in zip(parts, features, base.levels, strict=True):
        logits = (of_level @ weight.T + bias).float()
        temperature = None if to.new else known.temperature
        about = (classes, to.sizes, int(part[0]), int(part[-1]))
        found.append(temper(logits, *about, draws=fresh.draws, temperature=temperature))
    return tuple(found)


def _moments_after(
    before: FeatureMoments, data: GroupDataModule, to: Regrouped, trained: ClassMoments, tested: ClassMoments
) -> FeatureMoments:
    """Which samples the classes are of now."""
    renumbered = torch.full((int(before.atom.max()) + 1,), -1)
    renumbered[to.kept] = torch.arange(len(to.kept))
    stays = renumbered[before.atom] >= 0
    return FeatureMoments(
        sample=torch.cat([before.sample[stays], hashed(data)[torch.from_numpy(to.fresh)]]),
        atom=torch.cat([renumbered[before.atom][stays], len(to.kept) + to.new_class]),
        held_out=torch.cat([before.held_out[stays], to.held_out]),
        trained=trained,
        tested=tested,
    )
