"""The diagonal Fisher information as a kernel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from guda_lightning.attribution.gradients.flat import FlatModel
from guda_lightning.attribution.gradients.kernel import Kernel
from guda_lightning.attribution.scoring import NoisedQueries
from guda_lightning.diffusion import DiffusionModel
from guda_lightning.errors import ConfigError
from guda_lightning.functional.outputs import OUTPUTS


@dataclass(frozen=True, eq=False)
class Diagonal(Kernel):
    """``(F + λ)⁻¹`` of a diagonal F.

    Attributes:
        fisher: ``[weights]``, none negative.
        damping: λ relative to the mean of F; positive.
    """

    fisher: Tensor
    damping: float

    def solve(self, gradients: Tensor) -> Tensor:
        """``g / (F + λ)``; where no weight has a gradient, F is zero and so are the gradients: zeros."""
        damped = self.fisher + self.damping * self.fisher.mean()
        return torch.where(damped > 0, gradients / damped.to(gradients), torch.zeros_like(gradients))

    def state(self) -> dict[str, Tensor]:
        """All tensors; ``from_state`` makes the kernel of them again."""
        return {"fisher": self.fisher}

    @classmethod
    def from_state(
        cls, state: Mapping[str, Tensor], model: DiffusionModel, flat: FlatModel, damping: float
    ) -> Diagonal:
        """The kernel of what ``state`` returned, with any damping."""
        return cls(state["fisher"], damping)


def fit_diagonal(flat: FlatModel, batches: Iterable[NoisedQueries], damping: float) -> Diagonal:
    """The mean over evaluations of the squared gradient of the loss ``‖ε − ε̂‖²`` by each weight.

    The empirical Fisher information, by which Wang et al. (2024, arXiv 2406.09408) unlearn a query. It has
    the scale of the loss' curvature where residuals have variance 1/2, that of ``‖ε − ε̂‖² = −log p(ε)`` up
    to a constant, and is smaller where the model predicts better.

    Args:
        flat: The model; costs one per-sample gradient an evaluation.
        batches: Noised training samples; ``batch · weights`` numbers are in memory at a time.
        damping: λ relative to the mean of the diagonal; positive.

    Raises:
        ConfigError: There are no batches.
    """
    total, count = None, 0
    for batch in batches:
        squared = flat.gradients(OUTPUTS["loss"], batch).square().sum(dim=0, dtype=torch.float64)
        total = squared if total is None else total + squared
        count += len(batch.timesteps)
    if total is None:
        raise ConfigError(
            "there is nothing to estimate the Fisher information from",
            found="0 noised training samples",
            expected="at least one",
            fix="pass batches of noised_by_plan",
        )
    return Diagonal((total / count).float(), damping)
