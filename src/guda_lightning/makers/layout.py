"""Where a LightningModule has its diffusion model, and the weights that its training starts with."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import nn

from guda_lightning.diffusion import DiffusionModule, FullModel, load_weights, open_full
from guda_lightning.diffusion.calling import adapted
from guda_lightning.diffusion.weights import unwrapped
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

    @property
    def places(self) -> dict[str, Any] | None:
        """What a record keeps of it; None where a ``DiffusionModule`` needs none."""
        if self.denoiser is None and self.scheduler is None:
            return None
        return {"denoiser": self.denoiser, "scheduler": self.scheduler, "conditional": self.conditional}

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
            self.load(self.start, module)
        return self.full(module)

    def load(self, path: Path, module: LightningModule) -> None:
        """Give the network of an untrained module, and its copies, the weights at a path.

        Raises:
            StoreError: They cannot be read, or do not fit.
        """
        networks, before = self.networks(module), _copied(module)
        weights = _copied(self.open(path, module).model.denoiser)
        module.load_state_dict(before)  # what else a checkpoint holds is of another training
        network, *copies = networks
        load_weights(network, weights, path)
        for each in copies:
            each.load_state_dict(adapted(network).state_dict())

    def networks(self, module: LightningModule) -> Sequence[nn.Module]:
        """What training evaluates: the network of an untrained module, and its copies, as of an average.

        Copies are of the same class and have the same weights. Where the average is named as the denoiser,
        it is one of them that is trained.
        """
        network = self.full(module).model.denoiser
        taken = adapted(network)
        trained = unwrapped(module.denoiser) if isinstance(module, DiffusionModule) else taken
        copies = [part for part in module.modules() if part is trained or _alike(part, taken)]
        return [network, *(part for part in copies if part is not taken)]


def _alike(part: nn.Module, network: nn.Module) -> bool:
    if type(part) is not type(network):
        return False
    mine, other = network.state_dict(), part.state_dict()
    return mine.keys() == other.keys() and all(torch.equal(mine[name], other[name]) for name in mine)


def _copied(module: nn.Module) -> dict[str, Any]:
    return {name: copy.deepcopy(value) for name, value in module.state_dict().items()}
