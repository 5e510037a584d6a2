"""The classifier's network: small, and linear in a few features, so that many groups cost little."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

_SINUSOIDS = 32  # of the log SNR
_NORM_GROUPS = 8


class NoisyClassifier(nn.Module):
    """Logits of noised images and their noise level.

    Convolutions for large images, each level halving the image; then dense layers on all that is left of it,
    and a few features that the logits are linear in: their Jacobian serves any number of classes.

    Args:
        image_shape: ``(channels, height, width)`` of an image.
        num_classes: Number of classes.
        channels: Channels of each convolutional level, multiples of 8; none for small images.
        width: Units of each dense layer.
        features: Number of features.
        num_labels: Number of class labels that the images come with, for a conditional model; 0 for none.
        prompt_size: Size of the embeddings of the prompts that they come with, as of ``pooled``; 0 for none.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        channels: Sequence[int] = (),
        width: int = 256,
        features: int = 64,
        num_labels: int = 0,
        prompt_size: int = 0,
    ) -> None:
        super().__init__()
        embedding = 4 * _SINUSOIDS
        self.frequencies: Tensor
        self.register_buffer(
            "frequencies", torch.linspace(0, 5, _SINUSOIDS // 2).exp() / 10, persistent=False
        )
        self.time = nn.Sequential(
            nn.Linear(_SINUSOIDS, embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU()
        )
        self.condition: nn.Module | None = (
            nn.Sequential(nn.LayerNorm(prompt_size), nn.Linear(prompt_size, embedding))
            if prompt_size
            else nn.Embedding(num_labels, embedding)
            if num_labels
            else None
        )
        sizes = [image_shape[0], *channels]
        self.levels = nn.ModuleList(_Level(a, b, embedding) for a, b in pairwise(sizes))
        left = sizes[-1] * math.prod(side >> len(channels) for side in image_shape[1:])
        self.first = nn.Linear(left + embedding, width)
        self.residual = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.to_features = nn.Linear(width, features)
        self.head = nn.Linear(features, num_classes)

    def features(self, x: Tensor, log_snr: Tensor, condition: Tensor | None = None) -> Tensor:
        """What the logits are linear in: ``[batch, features]``.

        Args:
            x: ``[batch, channels, height, width]`` noised images of about unit variance.
            log_snr: ``[batch]`` logarithm of their signal-to-noise ratio.
            condition: ``[batch]`` int64 class labels or ``[batch, prompt_size]`` embeddings, if the network
                takes them.
        """
        angles = log_snr[:, None] * self.frequencies
        embedding = self.time(torch.cat([angles.sin(), angles.cos()], dim=1))
        if self.condition is not None and condition is not None:
            embedding = embedding + self.condition(condition)
        for level in self.levels:
            x = level(x, embedding)
        hidden = nn.functional.silu(self.first(torch.cat([x.flatten(1), embedding], dim=1)))
        for layer in self.residual:
            hidden = hidden + nn.functional.silu(layer(hidden))
        return nn.functional.silu(self.to_features(hidden))

    def forward(self, x: Tensor, log_snr: Tensor, condition: Tensor | None = None) -> Tensor:
        """``[batch, classes]`` logits.

        Args:
            x: ``[batch, channels, height, width]`` noised images of about unit variance.
            log_snr: ``[batch]`` logarithm of their signal-to-noise ratio.
            condition: ``[batch]`` int64 class labels or ``[batch, prompt_size]`` embeddings, if the network
                takes them.
        """
        logits: Tensor = self.head(self.features(x, log_snr, condition))
        return logits


def pooled(embeddings: Mapping[str, Tensor]) -> Tensor:
    """One vector a prompt, ``[prompts, size]``: the mean of the embeddings of its tokens.

    Args:
        embeddings: ``encoder_hidden_states`` ``[prompts, tokens, size]`` and, if the pipeline has one,
            ``encoder_attention_mask`` ``[prompts, tokens]``, which is 0 where there is no token.
    """
    hidden = embeddings["encoder_hidden_states"]
    mask = embeddings.get("encoder_attention_mask")
    if mask is None:
        return hidden.mean(dim=1)
    return (hidden * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)


class _Level(nn.Module):
    """Two convolutions, the second with a residual path, scaled and shifted by the noise level."""

    def __init__(self, in_channels: int, channels: int, embedding: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm, self.norm2 = nn.GroupNorm(_NORM_GROUPS, channels), nn.GroupNorm(_NORM_GROUPS, channels)
        self.film = nn.Linear(embedding, 2 * channels)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.film(embedding)[:, :, None, None].chunk(2, dim=1)
        x = nn.functional.silu(self.norm(self.first(x)) * (1 + scale) + shift)
        x = x + nn.functional.silu(self.norm2(self.second(x)))
        pooled: Tensor = self.pool(x)
        return pooled
