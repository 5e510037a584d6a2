"""Types shared by every layer."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # group names start without torch
    from torch import Tensor

Weighting = Literal["elbo", "uniform", "middle"]
PredictionType = Literal["epsilon", "v_prediction", "sample", "flow"]
JOINT = "+"  # between the names of groups that are removed together


@dataclass(frozen=True)
class Queries:
    """Samples to explain.

    Attributes:
        ids: One stable, unique name per query.
        images: ``[queries, channels, height, width]``, float32 in [-1, 1].
        labels: ``[queries]`` int64 class labels or numbers of prompts, for a conditional model, else None.
        prompts: The texts that they were made from, or None.
        latents: ``[queries, ...]`` what a latent model takes in place of the images; None for a pixel model.
        encoders: Identity of what encoded images and prompts; None for a pixel model.
        keys: What keys the noise of each in place of its image; None: the image.
    """

    ids: tuple[str, ...]
    images: Tensor
    labels: Tensor | None = None
    prompts: tuple[str, ...] | None = None
    latents: Tensor | None = None
    encoders: str | None = None
    keys: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def inputs(self) -> Tensor:
        """``[queries, ...]`` clean samples as the model takes them."""
        return self.images if self.latents is None else self.latents

    @cached_property
    def noise_keys(self) -> tuple[str, ...]:
        """What the randomness of each query is keyed by: the content of its image, whatever its name.

        Labels and prompts are no part of it, so that one image under two of them sees the same noise, and
        what differs is what they change.
        """
        return self.keys or content_keys(self.images)

    def take(self, rows: Sequence[int]) -> Queries:
        """Some of the queries."""
        chosen = list(rows)
        return replace(
            self,
            ids=tuple(self.ids[row] for row in chosen),
            images=self.images[chosen],
            labels=None if self.labels is None else self.labels[chosen],
            prompts=None if self.prompts is None else tuple(self.prompts[row] for row in chosen),
            latents=None if self.latents is None else self.latents[chosen],
            keys=None if self.keys is None else tuple(self.keys[row] for row in chosen),
        )


def content_keys(images: Tensor) -> tuple[str, ...]:
    """What identifies the content of images: sha256 of shape and pixels.

    Pixels count in steps of 1/256 of one of 256 levels, so that a picture of bytes has one key however it
    was scaled to [-1, 1]: the ways differ in the last bits.

    Args:
        images: ``[images, ...]`` in [-1, 1].
    """
    shape = repr(tuple(images.shape[1:])).encode()
    steps = ((images.detach().cpu().double() + 1) * (127.5 * 256)).round().long().contiguous()
    return tuple(hashlib.sha256(shape + image.tobytes()).hexdigest() for image in steps.numpy().astype("<i8"))
