"""Ancestral sampling whose every image is a pure function of (model, seed, index)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from guda_lightning import compat
from guda_lightning.diffusion.model import NO_PROMPT, DiffusionModel
from guda_lightning.diffusion.schedulers import noise_schedule
from guda_lightning.diffusion.weights import evaluating
from guda_lightning.errors import ConfigError, NumericsError, check_range

_BETAS = {"beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr"}


def sample(
    model: DiffusionModel,
    scheduler: Any,
    shape: Sequence[int],
    indices: Sequence[int],
    *,
    seed: int,
    steps: int,
    labels: Tensor | None = None,
    prompt_guidance: float = 1.0,
    device: torch.device | str = "cpu",
    on_step: Callable[[], None] = lambda: None,
) -> Tensor:
    """Generate one batch.

    Args:
        model: The model to sample from.
        scheduler: Its noise scheduler. Only the noise schedule counts: the steps are those of DDPM, or
            of Euler for a flow, because not every scheduler keeps the noise of one image to that image.
        shape: ``(channels, height, width)`` of a sample.
        indices: Which samples: each has a random stream of its own, so that batching changes nothing.
        seed: Seed of all samples.
        steps: Denoising steps, at most the schedule's length.
        labels: ``[batch]`` int64 class labels or numbers of prompts for a conditional model.
        prompt_guidance: w of classifier-free guidance, ``output(∅) + w (output(c) − output(∅))``, where ∅ is
            the prompt of number 0 (Ho and Salimans, arXiv 2207.12598); 1 is the conditional model itself.
        device: Where the model is.
        on_step: Called after every denoising step.

    Returns:
        ``[batch, *shape]`` float32 on the CPU.

    Raises:
        ConfigError: There are more steps than timesteps, or the scheduler is not the model's.
        NumericsError: A sample is not finite.
    """
    walker = sampler(model, scheduler, steps)
    # Generators on the CPU give the same noise on every device; they look at no more than 32 bits of a seed.
    keys = [(seed * 1_000_003 + index) % 2**32 for index in indices]
    streams = [torch.Generator("cpu").manual_seed(key) for key in keys]
    x = torch.stack([torch.randn(tuple(shape), generator=stream) for stream in streams]).to(device)
    labels = None if labels is None else labels.to(device)
    with evaluating(model.denoiser):
        for timestep in walker.timesteps:
            model_timesteps = timestep.to(device).expand(len(x))
            output = model.call(x, model_timesteps, labels)
            if prompt_guidance != 1 and labels is not None:
                without = model.call(x, model_timesteps, torch.full_like(labels, NO_PROMPT))
                output = without + prompt_guidance * (output - without)
            x = walker.step(output, timestep, x, generator=streams).prev_sample
            on_step()
    drawn = x.to("cpu", torch.float32)
    if not bool(drawn.isfinite().all()):
        raise NumericsError(
            "what the model draws is not finite",
            found="NaN or infinity in a sample",
            expected="finite numbers",
            fix="train the model for longer or with a lower learning rate, or draw with other --steps",
        )
    return drawn


def sampler(model: DiffusionModel, scheduler: Any, steps: int) -> Any:
    """The diffusers scheduler that walks so many steps of a model's noise schedule.

    Args:
        model: The model to sample from.
        scheduler: Its noise scheduler.
        steps: Denoising steps, at most the schedule's length.

    Raises:
        ConfigError: There are more steps than timesteps, or the scheduler is not the model's.
    """
    most = len(model.schedule)
    check_range(
        "the number of sampling steps",
        steps,
        ge=1,
        le=most,
        expected=f"1 to {most}, the timesteps of the noise schedule",
        fix=f"pass --steps {min(100, most)}, or another number in that range",
    )
    walker = _flow_walker(scheduler) if model.prediction == "flow" else _ddpm_walker(model, scheduler)
    if noise_schedule(walker).hash != model.schedule.hash:
        raise ConfigError(
            "the noise schedule cannot be sampled from",
            found=f"a {type(scheduler).__name__} of another noise schedule than the model's",
            expected="the scheduler that the model was trained with",
            fix="bring your own queries, or pass that scheduler",
        )
    walker.set_timesteps(steps)
    if model.prediction != "flow":
        _refuse_no_signal(model, walker)
        # A timestep without noise, which some count as the first, is the image already.
        walker.timesteps = walker.timesteps[walker.alphas_cumprod[walker.timesteps] < 1]
    return walker


def _refuse_no_signal(model: DiffusionModel, walker: Any) -> None:
    """Refuse a first step that is NaN: x̂_0 = (x_t − σ ε̂) / γ has no value at γ = 0, unless it is clipped."""
    bounded = walker.config.get("clip_sample") or walker.config.get("thresholding")
    if model.prediction == "epsilon" and not bounded and walker.alphas_cumprod[walker.timesteps[0]] == 0:
        raise ConfigError(
            "a network that predicts noise cannot begin at a timestep without signal",
            found=f"timestep {int(walker.timesteps[0])}, whose alphas_cumprod is 0 (rescale_betas_zero_snr)",
            expected="prediction_type v_prediction or sample, or a first step with some signal",
            fix="pass fewer --steps with timestep_spacing='leading' in the scheduler's configuration",
        )


def _ddpm_walker(model: DiffusionModel, scheduler: Any) -> Any:
    config = compat.scheduler_config(scheduler)
    if model.prompts is not None:  # latents have no bounds; DDPM sets some where a scheduler says nothing
        config = {"clip_sample": False, **config}
    if str(config.get("variance_type")).startswith("learned"):  # training leaves a learned variance as it was
        config["variance_type"] = "fixed_small"
    known = {*inspect.signature(DDPMScheduler.__init__).parameters} - _BETAS
    kept = {name: value for name, value in config.items() if name in known}
    walker: Any = DDPMScheduler(**kept)
    walker.alphas_cumprod = scheduler.alphas_cumprod  # all that its steps read; not every one has such betas
    return walker


def _flow_walker(scheduler: Any) -> Any:
    config = compat.scheduler_config(scheduler)
    if config.get("use_dynamic_shifting"):  # its training is not shifted, and so these steps are not either
        config = {**config, "use_dynamic_shifting": False, "shift": 1.0}
    # Noise of its own would not keep to one image.
    return FlowMatchEulerDiscreteScheduler.from_config({**config, "stochastic_sampling": False})
