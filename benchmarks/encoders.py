"""A small encoder that learns without labels: two views of a picture, told from those of others."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize, pad

from guda_lightning.attribution.encoders import Encoder
from guda_lightning.data import Digits, GroupDataModule
from guda_lightning.storage.files import sha256_json

CONTRASTIVE = ("--attributor.init_args.encoder", "benchmarks.encoders.Contrastive")
_BATCH, _RATE = 256, 1e-3
_NOISE, _CONTRAST = 0.1, (0.7, 1.3)  # of pixels in [-1, 1]


class Contrastive(Encoder):
    """Contrastive features of the digits (SimCLR, 2002.05709), trained when they are first needed.

    Args:
        steps: Training steps of 256 images: about 20 seconds of one core.
        width: Hidden features.
        dims: Features.
        temperature: Of the loss.
        seed: Of weights, batches and views.
    """

    name = "contrastive"

    def __init__(
        self, steps: int = 1000, width: int = 256, dims: int = 64, temperature: float = 0.2, seed: int = 0
    ) -> None:
        self.steps, self.width, self.dims, self.temperature, self.seed = steps, width, dims, temperature, seed

    @cached_property
    def hash(self) -> str:
        """Of all that its training follows from."""
        return sha256_json([self.name, self.steps, self.width, self.dims, self.temperature, self.seed])

    def __call__(self, images: Tensor) -> Tensor:
        """Features ``[batch, width]`` of ``[batch, 1, 8, 8]``: before the head, as in SimCLR."""
        with torch.no_grad():
            features: Tensor = self._network[0].to(images.device)(images.float())
        return features

    @cached_property
    def _network(self) -> nn.Sequential:
        data = GroupDataModule(Digits())
        images = data.seen_images(range(len(data.ids)))
        generator = torch.Generator().manual_seed(self.seed)
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            body = nn.Sequential(
                nn.Flatten(),
                nn.Linear(64, self.width),
                nn.SiLU(),
                nn.Linear(self.width, self.width),
                nn.SiLU(),
            )
            network = nn.Sequential(body, nn.Linear(self.width, self.dims))
        optimizer = torch.optim.AdamW(network.parameters(), lr=_RATE)
        for _ in range(self.steps):
            batch = images[torch.randperm(len(images), generator=generator)[:_BATCH]]
            with torch.enable_grad():  # who encodes needs none
                first, second = (network(view(batch, generator)) for _ in range(2))
                loss = told_apart(first, second, self.temperature)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return network.eval()


def view(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images ``[batch, 1, height, width]``, shifted by up to a pixel, with another contrast and noise."""
    count, _, height, width = images.shape
    low, high = _CONTRAST
    scale = low + (high - low) * torch.rand(count, 1, 1, 1, generator=generator)
    rows, columns = torch.randint(0, 3, (2, count), generator=generator)
    padded = pad(images, (1, 1, 1, 1), value=-1.0)
    down = rows[:, None] + torch.arange(height)
    right = columns[:, None] + torch.arange(width)
    shifted = padded[torch.arange(count)[:, None, None], 0, down[:, :, None], right[:, None, :]][:, None]
    return scale * shifted + _NOISE * torch.randn(images.shape, generator=generator)


def told_apart(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of finding the other view of the same image among all other views (2002.05709, eq. 1).

    Args:
        first: ``[batch, dims]``, one view of each image.
        second: ``[batch, dims]``, another.
        temperature: Of the cosines.
    """
    features = normalize(torch.cat([first, second]), dim=1)
    likeness = features @ features.T / temperature
    likeness.fill_diagonal_(-torch.inf)
    count = len(first)
    return cross_entropy(likeness, torch.arange(2 * count).roll(count))
