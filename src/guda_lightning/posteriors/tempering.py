"""Calibration of the classifier on samples that it was not trained on, one noise level at a time."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from guda_lightning.functional.guidance import log_kept

NEAR = 0.9  # from this probability on, a sample is called near a group
_TEMPERATURES = torch.logspace(-1, 1, 81, base=4)  # 1/4 to 4; the middle one, 1, leaves logits as they are
_SPREAD = 0.3  # of log T before any sample is seen: few, or none that is wrong, must not sharpen without end
_BINS = 15


@dataclass(frozen=True)
class NoiseLevel:
    """How well the classifier does on held-out samples at some timesteps.

    Scores come from log(1 − ρ) of the group that a query is in or looks like: ``near`` and what follows says
    how far it can be trusted there, with the temperature.

    Attributes:
        first: First timestep.
        last: Last timestep.
        temperature: Divides the logits there.
        cross_entropy: In nats, with that temperature.
        accuracy: Share of samples whose atom is the likeliest.
        ece: Expected calibration error of the likeliest class, 15 bins, without the temperature.
        ece_tempered: With it.
        near: Share of samples with some atom of ρ ≥ .9.
        near_predicted: Of these, the mean 1 − ρ: the share that should not be in that atom.
        near_observed: Of these, the share that is not.
        near_log_kept: Of these, the mean log(1 − ρ), in nats; far below the logarithm of ``near_observed``
            where a few samples that are sure outweigh the rest.
        ece_large: Calibration error of the probabilities of atoms, relative to their frequency:
            ``Σ_bins |Σ ρ − count| / Σ count``, without those of ``ece_small``.
        ece_small: The same of the atoms of less than half the mean size; None where there are none.
    """

    first: int
    last: int
    temperature: float
    cross_entropy: float
    accuracy: float
    ece: float
    ece_tempered: float
    near: float
    near_predicted: float | None
    near_observed: float | None
    near_log_kept: float | None
    ece_large: float | None
    ece_small: float | None

    def to_row(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def entropy_of(sizes: Tensor) -> float:
    """Entropy in nats of the frequencies of classes: the loss of what knows nothing else.

    Args:
        sizes: ``[classes]`` samples of each class.
    """
    share = sizes[sizes > 0].double() / sizes.sum()
    return float(-(share * share.log()).sum())


def temper(
    logits: Tensor,
    atom: Tensor,
    sizes: Tensor,
    first: int,
    last: int,
    *,
    draws: int = 1,
    temperature: float | None = None,
) -> NoiseLevel:
    """Fit the temperature of one noise level (Guo et al. 2017), the likeliest on a grid.

    Cross-entropy alone (the maximum of the likelihood) sharpens fourfold, the end of the grid, wherever every
    held-out sample happens to be told right, which is where ρ is near one and scores come from. With
    ``log T ~ N(0, .3²)`` beforehand it stays near 1 unless the samples say otherwise (docs/methods.md).

    Args:
        logits: ``[samples, atoms]`` of held-out samples noised at timesteps ``first`` to ``last``.
        atom: ``[samples]`` int64, the atom of each.
        sizes: ``[atoms]`` int64, training samples of each atom.
        first: First timestep.
        last: Last timestep.
        draws: How often each sample is among them: its draws err alike, and count as one.
        temperature: One that is known already; None: fit it.
    """
    if temperature is None:
        losses = torch.stack([nn.functional.cross_entropy(logits / t, atom) for t in _TEMPERATURES])
        best = int((len(logits) / draws * losses + (_TEMPERATURES.log() / _SPREAD).square() / 2).argmin())
        temperature = float(_TEMPERATURES[best])
    tempered = logits / temperature
    small = 2 * len(sizes) * sizes < sizes.sum()

    def ece(of: Tensor) -> float:
        return float(multiclass_calibration_error(of.softmax(dim=1), atom, of.shape[1], n_bins=_BINS))

    return NoiseLevel(
        first,
        last,
        temperature,
        float(nn.functional.cross_entropy(tempered, atom)),
        float((logits.argmax(dim=1) == atom).double().mean()),
        ece(logits),
        ece(tempered),
        **_near(tempered, atom),
        ece_large=_relative_error(tempered, atom, ~small),
        ece_small=_relative_error(tempered, atom, small),
    )


def _near(logits: Tensor, atom: Tensor) -> dict[str, Any]:
    """``near`` to ``near_log_kept`` of a ``NoiseLevel``."""
    top = logits.argmax(dim=1)
    removed = nn.functional.one_hot(top, logits.shape[1])[:, None].bool()  # of each sample its likeliest atom
    kept = log_kept(logits.double(), removed)[:, 0]
    near = kept.exp() <= 1 - NEAR
    if not bool(near.any()):
        return {"near": 0.0, "near_predicted": None, "near_observed": None, "near_log_kept": None}
    return {
        "near": float(near.double().mean()),
        "near_predicted": float(kept[near].exp().mean()),
        "near_observed": float((top != atom)[near].double().mean()),
        "near_log_kept": float(kept[near].mean()),
    }


def _relative_error(logits: Tensor, atom: Tensor, chosen: Tensor) -> float | None:
    """Calibration error of some atoms' probabilities, over their frequency; None: no sample is in them."""
    inside = nn.functional.one_hot(atom, logits.shape[1])[:, chosen]
    if not bool(inside.any()):
        return None
    probability = logits.softmax(dim=1)[:, chosen]
    error = binary_calibration_error(probability.flatten(), inside.flatten(), n_bins=_BINS)
    return float(error / inside.double().mean())
