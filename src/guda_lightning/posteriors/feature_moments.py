"""``FeatureMoments``: what a classifier keeps of its training samples, so that its groups can change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from guda_lightning.data import GroupDataModule
from guda_lightning.data.grouping import Indices
from guda_lightning.functional.class_moments import ClassMoments
from guda_lightning.functional.noise import seed_of
from guda_lightning.functional.schedule import NoiseSchedule
from guda_lightning.posteriors.held_out import HeldOut
from guda_lightning.posteriors.network import NoisyClassifier

NOISE_LEVELS = 10  # that are calibrated apart, and whose features have moments of their own
SEEN, NOISED = 8192, 4  # noised samples of a noise level, and of each image among them, at most
_PREFIX = "moments."


@dataclass(frozen=True, kw_only=True)
class FeatureMoments:
    """Moments of the features of every class at every noise level, and which samples the classes are of.

    No image is kept, and of a sample's id and image a hash.

    Attributes:
        sample: ``[samples]`` int64, a hash of the id and image of each.
        atom: ``[samples]`` int64, the class of each.
        held_out: ``[samples]`` bool, which ones were not trained on.
        trained: Of the features of those that were.
        tested: Of the features of the others.
    """

    sample: Tensor
    atom: Tensor
    held_out: Tensor
    trained: ClassMoments
    tested: ClassMoments

    def to_tensors(self) -> dict[str, Tensor]:
        """All of it, by names that no weights of a classifier have."""
        named = {"sample": self.sample, "atom": self.atom.int(), "held_out": self.held_out}
        for name, moments in (("trained", self.trained), ("tested", self.tested)):
            named |= {f"{name}.{part}": tensor for part, tensor in moments.to_tensors().items()}
        return {f"{_PREFIX}{name}": tensor for name, tensor in named.items()}


def split_moments(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], FeatureMoments | None]:
    """The weights of a stored classifier, and its moments; None where an earlier version wrote it."""
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(_PREFIX)}
    kept = {name.removeprefix(_PREFIX): tensor for name, tensor in tensors.items() if name not in weights}
    if not kept:
        return weights, None

    def moments(which: str) -> ClassMoments:
        start = f"{which}."
        return ClassMoments.from_tensors(
            {name.removeprefix(start): tensor for name, tensor in kept.items() if name.startswith(start)}
        )

    found = FeatureMoments(
        sample=kept["sample"],
        atom=kept["atom"].long(),
        held_out=kept["held_out"],
        trained=moments("trained"),
        tested=moments("tested"),
    )
    return weights, found


def hashed(data: GroupDataModule) -> Tensor:
    """``[samples]`` int64, a hash of the id and image of each: another image of the same id is another."""
    return torch.tensor([seed_of(sample, bits=63) for sample in data.sample_hashes])


def seen_rows(atom: Tensor) -> Tensor:
    """Positions of the samples that moments are taken of: all, or of many as few of every class as fit.

    Args:
        atom: ``[samples]`` int64.

    Returns:
        int64, sorted.
    """
    classes = atom.numpy()
    order = np.argsort(np.random.default_rng(0).permutation(len(classes)))  # the place of each at random
    sorted_by_class = np.lexsort((order, classes))
    sizes = np.bincount(classes)
    rank = np.empty(len(classes), dtype=np.int64)
    rank[sorted_by_class] = np.concatenate([np.arange(size) for size in sizes]) if len(classes) else 0
    chosen: Indices = np.sort(np.lexsort((order, rank))[:SEEN])
    return torch.from_numpy(chosen)


def level_features(
    samples: HeldOut, network: NoisyClassifier, schedule: NoiseSchedule, draws: int, seed: int
) -> Tensor:
    """Features of samples that are noised several times at every noise level.

    Args:
        samples: The samples.
        network: The classifier, on any device.
        schedule: The noise schedule, whose scored timesteps make ``NOISE_LEVELS`` levels.
        draws: Of timestep and noise, of each sample and level.
        seed: Of the draws.

    Returns:
        ``[levels, samples × draws, features]`` on the CPU, the draws of a sample beside each other.
    """
    if not len(samples):  # which not every layer takes
        return torch.zeros(NOISE_LEVELS, 0, network.head.in_features)
    generator = torch.Generator().manual_seed(seed)
    rows, found = torch.arange(len(samples)).repeat_interleave(draws), []
    for part in schedule.scored_timesteps.tensor_split(NOISE_LEVELS):
        timesteps = part[torch.randint(len(part), (len(rows),), generator=generator)]
        found.append(samples.features(network, rows, timesteps, seed + int(part[0])))
    return torch.stack(found)


def draws_of(samples: int) -> int:
    """How often each of some samples is noised at a noise level."""
    return max(1, min(NOISED, SEEN // max(1, samples)))
