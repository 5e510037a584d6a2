"""Ancestral sampling whose every image is a pure function of (model, seed, index)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from guda_lightning.diffusion.model import DiffusionModel
from guda_lightning.diffusion.weights import evaluating


def sample(
    model: DiffusionModel,
    scheduler: Any,
    shape: Sequence[int],
    indices: Sequence[int],
    *,
    seed: int,
    steps: int,
    labels: Tensor | None = None,
    device: torch.device | str = "cpu",
    on_step: Callable[[], None] = lambda: None,
) -> Tensor:
    """Generate one batch.

    Args:
        model: The model to sample from.
        scheduler: Its diffusers scheduler; a copy walks the steps.
        shape: ``(channels, height, width)`` of a sample.
        indices: Which samples: each has a random stream of its own, so that batching changes nothing.
        seed: Seed of all samples.
        steps: Denoising steps, at most the schedule's length.
        labels: ``[batch]`` int64 class labels for a conditional model.
        device: Where the model is.
        on_step: Called after every denoising step.

    Returns:
        ``[batch, *shape]`` float32 on the CPU, clipped to [-1, 1].
    """
    walker = copy.deepcopy(scheduler)
    walker.set_timesteps(steps)
    # Generators on the CPU give the same noise on every device.
    streams = [torch.Generator("cpu").manual_seed(seed * 2**32 + index) for index in indices]
    x = torch.stack([torch.randn(tuple(shape), generator=stream) for stream in streams]).to(device)
    labels = None if labels is None else labels.to(device)
    with evaluating(model.denoiser):
        for told in walker.timesteps:
            output = model.call(x, told.to(device).expand(len(x)), labels)
            x = walker.step(output, told, x, generator=streams).prev_sample
            on_step()
    return x.clamp(-1, 1).to("cpu", torch.float32)
