"""Kernels of whole gradients by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from guda_lightning.attribution.gradients.diagonal import fit_diagonal
from guda_lightning.attribution.gradients.flat import FlatModel
from guda_lightning.attribution.gradients.kernel import Identity, Kernel
from guda_lightning.attribution.scoring import NoisedQueries
from guda_lightning.diffusion import DiffusionModel

KernelName = Literal["none", "diag", "ekfac", "gram"]
Batches = Callable[[], Iterable[NoisedQueries]]  # anew, and the same ones, at each call
Fit = Callable[[DiffusionModel, FlatModel, Batches, float], Kernel]

# "ekfac" is fitted once for every damping; "gram" is of projected gradients, which are stored.
FITS: Mapping[KernelName, Fit] = {
    "none": lambda model, flat, batches, damping: Identity(),
    "diag": lambda model, flat, batches, damping: fit_diagonal(flat, batches(), damping),
}
PASSES: Mapping[KernelName, int] = {"none": 0, "diag": 1, "ekfac": 2}  # gradients of every training sample
