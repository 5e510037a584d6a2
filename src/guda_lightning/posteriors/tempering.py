"""Calibration of the classifier on samples that it was not trained on, one noise level at a time."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_calibration_error

_TEMPERATURES = torch.logspace(-1, 1, 81, base=4)  # 1/4 to 4; the middle one, 1, leaves logits as they are
_LEAST = 50  # held-out samples and draws that a temperature is worth fitting on


@dataclass(frozen=True)
class NoiseLevel:
    """How well the classifier does on held-out samples at some timesteps.

    Attributes:
        first: First timestep.
        last: Last timestep.
        temperature: Divides the logits there.
        cross_entropy: In nats, with that temperature.
        accuracy: Share of samples whose atom is the likeliest.
        ece: Expected calibration error of the likeliest class, 15 bins, without the temperature.
        ece_tempered: With it.
    """

    first: int
    last: int
    temperature: float
    cross_entropy: float
    accuracy: float
    ece: float
    ece_tempered: float

    def to_row(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def temper(logits: Tensor, atom: Tensor, first: int, last: int) -> NoiseLevel:
    """Fit the temperature of one noise level (Guo et al. 2017): least cross-entropy on a grid.

    Args:
        logits: ``[samples, atoms]`` of held-out samples noised at timesteps ``first`` to ``last``.
        atom: ``[samples]`` int64, the atom of each.
        first: First timestep.
        last: Last timestep.
    """
    losses = torch.stack([nn.functional.cross_entropy(logits / t, atom) for t in _TEMPERATURES])
    best = int(losses.argmin()) if len(logits) >= _LEAST else len(_TEMPERATURES) // 2
    temperature = float(_TEMPERATURES[best])

    def ece(of: Tensor) -> float:
        return float(multiclass_calibration_error(of.softmax(dim=1), atom, of.shape[1], n_bins=15))

    return NoiseLevel(
        first,
        last,
        temperature,
        float(losses[best]),
        float((logits.argmax(dim=1) == atom).double().mean()),
        ece(logits),
        ece(logits / temperature),
    )
