"""Curvatures of all weights by name: how each is fitted, kept and opened again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal, NamedTuple

from torch import Tensor

from guda_lightning.attribution.gradients.diagonal import Diagonal, fit_diagonal
from guda_lightning.attribution.gradients.ekfac import EKFAC, fit_ekfac
from guda_lightning.attribution.gradients.flat import FlatModel
from guda_lightning.attribution.gradients.kernel import Kernel
from guda_lightning.attribution.scoring import NoisedQueries
from guda_lightning.diffusion import DiffusionModel

KernelName = Literal["none", "diag", "ekfac", "gram"]
Batches = Callable[[], Iterable[NoisedQueries]]  # anew, and the same ones, at each call


class Curvature(NamedTuple):
    """How a curvature is fitted, opened with any damping, and how many gradients of each sample it takes."""

    fit: Callable[[DiffusionModel, FlatModel, Batches, float], Diagonal | EKFAC]
    open: Callable[[Mapping[str, Tensor], DiffusionModel, FlatModel, float], Kernel]
    passes: int


# "gram" is of projected gradients, which are stored.
CURVATURES: Mapping[KernelName, Curvature] = {
    "diag": Curvature(
        lambda _, flat, batches, damping: fit_diagonal(flat, batches(), damping), Diagonal.from_state, 1
    ),
    "ekfac": Curvature(fit_ekfac, EKFAC.from_state, 2),
}
