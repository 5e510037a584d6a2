"""A picture drawn again by another model, from noise that the picture may have come from."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from guda_lightning.diffusion.full import FullModel
from guda_lightning.diffusion.model import DiffusionModel
from guda_lightning.diffusion.sampling import sampler
from guda_lightning.diffusion.weights import evaluating
from guda_lightning.errors import NumericsError
from guda_lightning.functional.prediction import add_noise, implied_noise, to_output


def redraw(
    full: FullModel,
    other: DiffusionModel,
    x0: Tensor,
    *,
    seed: int,
    steps: int,
    labels: Tensor | None = None,
    device: torch.device | str = "cpu",
    on_step: Callable[[], None] = lambda: None,
) -> Tensor:
    """Draw pictures again with another model, on noise from which the full model draws exactly them.

    A picture that nobody saw being drawn has no noise of its own. So some is taken that it may have come
    from: a path ``x_T, ..., x_0`` of noised pictures that ends in it, and the noise by which each step of the
    full model arrives at the next point (CycleDiffusion, arXiv 2210.05559). The other model takes the same
    steps on the same noise, so what differs in the end is due to the model. For a flow the path is straight.

    Args:
        full: The full model, its network on the device.
        other: The model that draws, of the same schedule and prediction, on the device.
        x0: ``[batch, ...]`` clean samples as the model takes them.
        seed: Of the path; with the same picture and models it gives the same result.
        steps: Steps of the path, two network evaluations each.
        labels: ``[batch]`` int64 class labels or numbers of prompts, for a conditional model.
        device: Where the models are.
        on_step: Called after every step.

    Returns:
        ``[batch, ...]`` float32 on the CPU; ``x0`` itself if both models are the same.

    Raises:
        ConfigError: There are more steps than timesteps, or the full model's scheduler is not its own.
        NumericsError: A result is not finite.
    """
    walker = sampler(full.model, full.scheduler, steps)
    walkers = [copy.deepcopy(walker) for _ in range(3)]  # some count their steps
    generator = torch.Generator("cpu").manual_seed(seed)
    noise = torch.randn(x0.shape, generator=generator).to(device)
    x0, labels = x0.to(device), None if labels is None else labels.to(device)
    path = drawn = None
    with evaluating(full.model.denoiser), evaluating(other.denoiser):
        for timestep in walker.timesteps:
            model_timesteps = timestep.to(device).expand(len(x0))
            at = full.model.schedule.at(full.model.schedule.timesteps_of(model_timesteps), like=x0)
            if path is None or drawn is None:
                path = drawn = add_noise(x0, noise, *at)
            outputs = (
                to_output(x0, implied_noise(path, x0, *at), *at, full.model.prediction),
                full.model.call(path, model_timesteps, labels),
                other.call(drawn, model_timesteps, labels),
            )
            state, ends = generator.get_state(), []
            for one, output, start in zip(walkers, outputs, (path, path, drawn), strict=True):
                generator.set_state(state)  # the noise of the scheduler itself is the same, and cancels
                ends.append(one.step(output, timestep, start, generator=generator).prev_sample)
            path, expected, moved = ends
            drawn = path + (moved - expected)
            on_step()
    assert drawn is not None  # there is a first step
    found = drawn.to("cpu", torch.float32)
    if not bool(found.isfinite().all()):
        raise NumericsError(
            "the picture without the group is not finite",
            found="NaN or infinity in a sample",
            expected="finite numbers",
            fix="draw it with other steps, or train the model for longer",
        )
    return found
