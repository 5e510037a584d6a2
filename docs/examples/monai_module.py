"""MONAI's diffusion U-Net and noise scheduler in a LightningModule, without a line for guda-lightning."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from monai.networks.nets import DiffusionModelUNet
from monai.networks.schedulers import DDPMScheduler
from torch import Tensor


class MedicalDiffusion(LightningModule):
    """Trained as in MONAI's tutorials: its U-Net is ``unet``, its noise schedule ``scheduler``."""

    def __init__(self, width: int = 32, timesteps: int = 1000) -> None:
        super().__init__()
        self.unet = DiffusionModelUNet(
            spatial_dims=2,
            in_channels=1,
            out_channels=1,
            channels=(width, 2 * width),
            attention_levels=(False, True),
            num_res_blocks=1,
            num_head_channels=width,
            norm_num_groups=8,
        )
        self.scheduler = DDPMScheduler(num_train_timesteps=timesteps, schedule="scaled_linear_beta")

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        images = batch["image"]
        noise = torch.randn_like(images)
        timesteps = torch.randint(self.scheduler.num_train_timesteps, (len(images),), device=self.device)
        noised = self.scheduler.add_noise(images, noise, timesteps)
        return F.mse_loss(self.unet(noised, timesteps), noise)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=2.5e-5)
