"""A denoiser that is linear in its weights, whose gradients and curvatures have closed forms."""

from __future__ import annotations

import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

from guda_lightning.attribution.scoring import NoisedQueries
from guda_lightning.diffusion import DiffusionModel, diffusion_model


class LinearDenoiser(nn.Module):
    """``ε̂ = W [x_t, 1]``, whatever the timestep; with labels, plus a row of a table."""

    def __init__(self, dims: int, classes: int = 0, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(0.3 * torch.randn(dims, dims + 1, generator=generator))
        self.table = nn.Parameter(0.3 * torch.randn(classes, dims, generator=generator)) if classes else None

    def forward(self, x_t: Tensor, timesteps: Tensor, class_labels: Tensor | None = None) -> Tensor:
        found = features(x_t) @ self.weight.T
        if self.table is not None and class_labels is not None:
            found = found + self.table[class_labels]
        return found.view_as(x_t)


def features(x_t: Tensor) -> Tensor:
    """What the prediction is linear in, ``[batch, dims + 1]``."""
    return torch.cat([x_t.flatten(1), torch.ones(len(x_t), 1, dtype=x_t.dtype)], dim=1)


def linear_model(dims: int, classes: int = 0, timesteps: int = 50) -> DiffusionModel:
    """A `LinearDenoiser` with a noise schedule."""

    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.denoiser = LinearDenoiser(dims, classes)
            self.scheduler = DDPMScheduler(num_train_timesteps=timesteps)

    model = diffusion_model(Module())
    return DiffusionModel(model.denoiser, model.schedule, model.prediction, conditional=bool(classes))


def loss_gradients(weight: Tensor, batch: NoisedQueries) -> Tensor:
    """Of ``‖ε − W [x_t, 1]‖²`` on each sample by ``W``, ``[batch, weights]``."""
    inputs = features(batch.x_t)
    residual = inputs @ weight.T - batch.noise.flatten(1)
    return 2 * (residual[:, :, None] * inputs[:, None]).flatten(1)
