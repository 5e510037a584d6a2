"""Where a LightningModule has its diffusion model, and the weights that its training starts with."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning.pytorch import LightningModule
from torch import nn

from guda_lightning.diffusion import DiffusionModule, FullModel, load_weights, open_full
from guda_lightning.storage.paths import refuse_missing_start


@dataclass(frozen=True)
class Layout:
    """How to find the diffusion model of a module.

    Attributes:
        denoiser: Dotted path of its network; may be left out for a ``DiffusionModule``.
        scheduler: Dotted path of its noise scheduler; may be left out for a ``DiffusionModule``.
        conditional: Whether its network takes class labels or prompts; a ``DiffusionModule`` says so itself.
        start: A diffusers folder or a Lightning checkpoint that training starts with; None: the weights that
            the module is built with.
    """

    denoiser: str | None = None
    scheduler: str | None = None
    conditional: bool = False
    start: Path | None = None

    def full(self, module: LightningModule) -> FullModel:
        """The diffusion model inside a module; raises as ``FullModel.of``."""
        return FullModel.of(module, self.denoiser, self.scheduler, self.conditional)

    def open(self, path: Path, module: LightningModule) -> FullModel:
        """The full model at a path; raises as ``open_full``."""
        return open_full(path, module, self.denoiser, self.scheduler, self.conditional)

    def initialize(self, module: LightningModule) -> FullModel:
        """Give an untrained module the weights that training starts with, and return its diffusion model.

        Raises:
            StoreError: They do not exist, cannot be read, or do not fit.
        """
        if self.start is not None:
            refuse_missing_start(self.start)
            weights = self.open(self.start, copy.deepcopy(module)).model.denoiser.state_dict()
            for network in self.networks(module):
                load_weights(network, weights, self.start)
        return self.full(module)

    def networks(self, module: LightningModule) -> Sequence[nn.Module]:
        """What training evaluates: the network that is trained and, where it differs, its average."""
        network = self.full(module).model.denoiser
        trained = module.denoiser if isinstance(module, DiffusionModule) else network
        return [trained] if trained is network else [trained, network]
