r"""Scalar outputs of a denoiser on one noised sample, whose gradients attribution compares.

| output   | f                 | used by                                            |
|----------|-------------------|----------------------------------------------------|
| `loss`   | ``‖ε − ε̂‖²``     | TracIn, TRAK, RelatIF, EK-FAC influence            |
| `square` | ``mean(ε̂²)``     | D-TRAK (arXiv 2311.00500, section 4)               |
| `mean`   | ``mean(ε̂)``      | DAS (arXiv 2410.18639)                             |
| `l1`     | ``mean(\|ε̂\|)`` | a variant of D-TRAK and DAS                        |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from torch import Tensor

OutputName = Literal["loss", "square", "mean", "l1"]
Output = Callable[[Tensor, Tensor], Tensor]  # predicted noise and noise, ``[batch, ...]``, to ``[batch]``

OUTPUTS: Mapping[OutputName, Output] = {
    "loss": lambda predicted, noise: (noise - predicted).flatten(1).square().sum(dim=1),
    "square": lambda predicted, noise: predicted.flatten(1).square().mean(dim=1),
    "mean": lambda predicted, noise: predicted.flatten(1).mean(dim=1),
    "l1": lambda predicted, noise: predicted.flatten(1).abs().mean(dim=1),
}
