"""Latent text-to-image models: a denoiser on latents, prompts by number, VAE and text encoder run once."""

from guda_lightning.latent.data import LatentDataModule
from guda_lightning.latent.module import LatentDiffusionModule

__all__ = ["LatentDataModule", "LatentDiffusionModule"]
