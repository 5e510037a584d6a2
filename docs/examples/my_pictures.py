"""What you have already, and the examples share: pictures in a folder per group, a network and its loss."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DModel
from PIL import Image
from torch import Tensor

SIZE = 8
GROUPS = ("columns", "rows", "spots")


def draw_pictures(folder: Path, per_group: int = 24) -> None:
    """Small gray pictures, one subfolder per group."""
    generator = np.random.default_rng(0)
    for group in GROUPS:
        (folder / group).mkdir(parents=True)
        for number in range(per_group):
            pixels = generator.integers(0, 60, (SIZE, SIZE), dtype=np.uint8)
            x, y = generator.integers(0, SIZE - 2, 2)
            height, width = {"columns": (SIZE, 2), "rows": (2, SIZE), "spots": (3, 3)}[group]
            x, y = (0 if width == SIZE else x), (0 if height == SIZE else y)
            pixels[y : y + height, x : x + width] = 255
            Image.fromarray(pixels).save(folder / group / f"{number}.png")


def read_pictures(folder: Path) -> Tensor:
    """``[pictures, 1, height, width]`` in [-1, 1]."""
    files = sorted(folder.glob("*/*.png"))
    return torch.stack([torch.tensor(np.asarray(Image.open(file))) for file in files])[:, None] / 127.5 - 1


def make_unet(width: int = 8) -> UNet2DModel:
    """A small U-Net, which says by ``sample_size`` what it takes."""
    return UNet2DModel(
        sample_size=SIZE,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(width, width),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
    )


def denoising_loss(unet: torch.nn.Module, scheduler: DDPMScheduler, clean: Tensor) -> Tensor:
    """The loss of the training tutorial of diffusers, as it stands in many projects."""
    noise = torch.randn_like(clean)
    steps = scheduler.config.num_train_timesteps
    timesteps = torch.randint(0, steps, (len(clean),), device=clean.device)
    noisy = scheduler.add_noise(clean, noise, timesteps)
    return F.mse_loss(unet(noisy, timesteps, return_dict=False)[0], noise)
