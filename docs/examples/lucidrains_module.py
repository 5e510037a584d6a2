"""The diffusion of denoising-diffusion-pytorch in a LightningModule, without a line for guda-lightning."""

from __future__ import annotations

import torch
from denoising_diffusion_pytorch import GaussianDiffusion, Unet
from lightning.pytorch import LightningModule
from torch import Tensor


class DenoisingDiffusion(LightningModule):
    """Trained as the library trains: its U-Net is ``diffusion.model``, its noise schedule ``diffusion``."""

    def __init__(self, dim: int = 32, timesteps: int = 1000, objective: str = "pred_v") -> None:
        super().__init__()
        network = Unet(dim=dim, dim_mults=(1, 2), channels=1)
        self.diffusion = GaussianDiffusion(network, image_size=8, timesteps=timesteps, objective=objective)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss: Tensor = self.diffusion((batch["image"] + 1) / 2)  # which takes images in [0, 1]
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=8e-5)
