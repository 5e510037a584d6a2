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
_LEAST = 50  # held-out samples and draws that a temperature is worth fitting on
_BINS = 15


@dataclass(frozen=True)
class NoiseLevel:
    """How well the classifier does on held-out samples at some timesteps.

    Scores come from log(1 − ρ) of the group that a query is in or looks like: ``near`` and what follows says how
    far it can be trusted there, with the temperature.

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
        near_log_kept: Of these, the mean log(1 − ρ), in nats; where ρ is no sharper than the data allow, it is
            not far below the logarithm of ``near_observed``.
        ece_small: Calibration error of the smaller atoms, those that together hold a quarter of the samples at
            most, relative to their frequency: ``Σ_bins |Σ ρ − count| / Σ count``. Atoms of one size are all
            of them in both.
        ece_large: The same of the others.
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
    ece_small: float | None
    ece_large: float | None

    def to_row(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def temper(logits: Tensor, atom: Tensor, sizes: Tensor, first: int, last: int) -> NoiseLevel:
    """Fit the temperature of one noise level (Guo et al. 2017): least cross-entropy on a grid.

    Args:
        logits: ``[samples, atoms]`` of held-out samples noised at timesteps ``first`` to ``last``.
        atom: ``[samples]`` int64, the atom of each.
        sizes: ``[atoms]`` int64, training samples of each atom.
        first: First timestep.
        last: Last timestep.
    """
    losses = torch.stack([nn.functional.cross_entropy(logits / t, atom) for t in _TEMPERATURES])
    best = int(losses.argmin()) if len(logits) >= _LEAST else len(_TEMPERATURES) // 2
    temperature = float(_TEMPERATURES[best])
    tempered = logits / temperature
    small = _small(sizes)

    def ece(of: Tensor) -> float:
        return float(multiclass_calibration_error(of.softmax(dim=1), atom, of.shape[1], n_bins=_BINS))

    return NoiseLevel(
        first,
        last,
        temperature,
        float(losses[best]),
        float((logits.argmax(dim=1) == atom).double().mean()),
        ece(logits),
        ece(tempered),
        **_near(tempered, atom),
        ece_small=_relative_error(tempered, atom, small),
        ece_large=_relative_error(tempered, atom, ~small),
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


def _small(sizes: Tensor) -> Tensor:
    """``[atoms]`` bool, the smaller atoms, which together hold a quarter of the samples at most."""
    order = sizes.argsort(stable=True)
    held = sizes[order].cumsum(0)
    small = torch.zeros(len(sizes), dtype=torch.bool)
    small[order] = 4 * held <= sizes.sum()
    return small


def _relative_error(logits: Tensor, atom: Tensor, chosen: Tensor) -> float | None:
    """Calibration error of some atoms' probabilities, over their frequency; None: no sample is in them."""
    inside = nn.functional.one_hot(atom, logits.shape[1])[:, chosen]
    if not bool(inside.any()):
        return None
    probability = logits.softmax(dim=1)[:, chosen]
    error = binary_calibration_error(probability.flatten(), inside.flatten(), n_bins=_BINS)
    return float(error / inside.double().mean())
