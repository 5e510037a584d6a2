"""Which window the patch kernel takes at each noise level: the one whose ε̂ is closest to the full model's."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from guda_lightning.data import GroupDataModule
from guda_lightning.data.grouping import Indices
from guda_lightning.diffusion import DiffusionModel, evaluating
from guda_lightning.errors import ConfigError
from guda_lightning.functional.kernels import whole_window
from guda_lightning.functional.prediction import add_noise, implied_noise
from guda_lightning.posteriors.feature_moments import NOISE_LEVELS
from guda_lightning.posteriors.patch_kernel import KernelLevel, PatchKernel, refuse_costly

_NOISED = 64  # samples per noise level: 64 x 64 pixels tell windows apart to about a percent
_HELD_OUT = 0.1  # of all samples, at most


def fit_windows(
    data: GroupDataModule,
    full: DiffusionModel,
    device: torch.device | str = "cpu",
    seed: int = 0,
    on_level: Callable[[KernelLevel], None] = lambda level: None,
) -> tuple[KernelLevel, ...]:
    """Choose the window of each of ``NOISE_LEVELS`` noise levels, without any counterfactual.

    Some training samples are held out of the kernel, noised, and denoised by the full model and by the kernel
    through each window.

    Args:
        data: The training data of the full model.
        full: The full model, on the device.
        device: Where the kernel goes.
        seed: Of the samples that are held out, their timesteps and noise.
        on_level: Called with each noise level as soon as its window is known.

    Returns:
        The noise levels, from least noise to most.

    Raises:
        ConfigError: Too few samples, a timestep without noise, or a comparison that would take hours.
    """
    candidates = windows_for(data.input_shape)
    for window in candidates:
        refuse_costly(len(data.ids) * (1 + data.horizontal_flip), data.input_shape, window)
    rows = _held_out(data, full.conditional, seed)
    kernel = PatchKernel.of(data, full.schedule, (), device, np.setdiff1d(np.arange(len(data.ids)), rows))
    rows = np.resize(rows, _NOISED)
    clean = data.seen_inputs(rows)[: len(rows)]
    labels = data.labels[rows].to(device) if full.conditional and data.labels is not None else None
    generator = torch.Generator().manual_seed(seed)
    levels = []
    for part in full.schedule.scored_timesteps.tensor_split(NOISE_LEVELS):
        if not len(part):
            continue
        timesteps = part[torch.randint(len(part), (len(rows),), generator=generator)].to(device)
        noise = torch.randn(clean.shape, generator=generator)
        gamma, sigma = full.schedule.at(timesteps, like=clean.to(device))
        x_t = add_noise(clean.to(device), noise.to(device), gamma, sigma)
        with evaluating(full.denoiser):
            predicted = full.predicted_noise(x_t, timesteps, labels).double()
        squared = {}
        for window in candidates:
            mean = kernel.denoised(x_t, timesteps, torch.full((len(rows),), window), labels)
            squared[window] = _mean_square(implied_noise(x_t, mean, gamma, sigma) - predicted)
        window = min(squared, key=squared.__getitem__)
        r2 = 1 - squared[window] / _mean_square(predicted - predicted.mean())
        levels.append(KernelLevel(int(part[0]), int(part[-1]), window, r2, squared[window]))
        on_level(levels[-1])
    return tuple(levels)


def windows_for(shape: tuple[int, int, int]) -> tuple[int, ...]:
    """Windows to choose from: 1, 3, 5, 7, then by about a half more each, and one that sees the whole image.

    Args:
        shape: Channels, height and width of the images.
    """
    side, windows = max(shape[1:]), [1]
    while (following := windows[-1] + max(2, windows[-1] // 4 * 2)) <= side:
        windows.append(following)
    return *windows, whole_window(*shape[1:])


def _held_out(data: GroupDataModule, conditional: bool, seed: int) -> Indices:
    """Samples that the kernel does without; one of each class of a conditional model stays."""
    order = np.random.default_rng(seed).permutation(len(data.ids))
    if conditional and data.prompts is None and data.labels is not None:
        stay = np.unique(data.labels.numpy(), return_index=True)[1]
        order = order[~np.isin(order, stay)]
    found = order[: min(_NOISED, math.ceil(_HELD_OUT * len(data.ids)))]
    if not len(found) or len(data.ids) == 1:
        raise ConfigError(
            "the patch kernel needs training samples to choose its windows on",
            found=f"{len(data.ids)} samples" + (", one a class" if conditional else ""),
            expected="at least two" + (", and two of some class" if conditional else ""),
            fix="take another posterior, such as the classifier",
        )
    return found


def _mean_square(values: Tensor) -> float:
    return float(values.square().mean())
