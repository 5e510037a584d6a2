"""A denoiser together with its noise schedule: the one way the rest of the code calls a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from guda_lightning import compat
from guda_lightning.diffusion.calling import adapted, call
from guda_lightning.diffusion.schedulers import noise_schedule, prediction_type
from guda_lightning.diffusion.weights import unwrapped
from guda_lightning.errors import ConfigError, near
from guda_lightning.functional.prediction import to_noise
from guda_lightning.functional.schedule import NoiseSchedule
from guda_lightning.types import PredictionType

Condition = Callable[[Tensor], Mapping[str, Tensor]]  # numbers of prompts to arguments of a network
NO_PROMPT = 0  # the number of the empty prompt


@dataclass(frozen=True)
class DiffusionModel:
    """A network that denoises, and what its output means.

    Attributes:
        denoiser: Any diffusers model, or any module called as ``denoiser(x_t, timesteps)`` and, for a
            label-conditional model, ``denoiser(x_t, timesteps, class_labels=labels)``, that returns a
            tensor, or a tuple, list, dictionary or object with one; others are wrapped in ``CallAs``.
        schedule: The noise schedule that it was trained on.
        prediction: What its output predicts.
        prompts: For a text-conditional network, whose labels are numbers of prompts: their embeddings by the
            names of the network's arguments, such as ``encoder_hidden_states``.
        conditional: Whether the network takes class labels or prompts.
    """

    denoiser: nn.Module
    schedule: NoiseSchedule
    prediction: PredictionType
    prompts: Condition | None = None
    conditional: bool = False

    @property
    def sample_size(self) -> tuple[int, int] | None:
        """Height and width of what the network says that it takes; None where it says nothing.

        It says so by ``sample_size`` in its ``config``, as networks of diffusers do.
        """
        config: Any = getattr(adapted(unwrapped(self.denoiser)), "config", None)
        size = getattr(config, "sample_size", config.get("sample_size") if isinstance(config, dict) else None)
        if isinstance(size, int):
            return size, size
        return (size[0], size[1]) if isinstance(size, (list, tuple)) and len(size) == 2 else None

    def prompted(self, prompts: Condition | None) -> DiffusionModel:
        """The same model with the embeddings of prompts, if there are any: then it is conditional."""
        return replace(self, prompts=prompts, conditional=self.conditional or prompts is not None)

    def output(self, x_t: Tensor, timesteps: Tensor, labels: Tensor | None = None) -> Tensor:
        """The network's raw output, ``[batch, ...]`` of the dtype of ``x_t``, whatever autocast computed in.

        Args:
            x_t: ``[batch, ...]`` noised samples.
            timesteps: ``[batch]`` int64 indices into the schedule.
            labels: ``[batch]`` int64 class labels or numbers of prompts, for a conditional network.
        """
        return self.call(x_t, self.schedule.model_timesteps_at(timesteps, x_t), labels)

    def call(self, x_t: Tensor, model_timesteps: Tensor, labels: Tensor | None = None) -> Tensor:
        """The network's raw output, ``[batch, ...]`` of the dtype of ``x_t``, at the timesteps of a sampler.

        Args:
            x_t: ``[batch, ...]`` noised samples.
            model_timesteps: ``[batch]`` values of ``schedule.model_timesteps``.
            labels: ``[batch]`` int64 class labels or numbers of prompts, for a conditional network.
        """
        condition: Mapping[str, Tensor] = {}
        if labels is not None and self.prompts is not None:
            embedded = self.prompts(labels).items()
            condition = {name: _like(value, x_t) for name, value in embedded}
        elif labels is not None:
            condition = {"class_labels": labels}
        return call(self.denoiser, x_t, model_timesteps, condition).to(x_t.dtype)

    def predicted_noise(self, x_t: Tensor, timesteps: Tensor, labels: Tensor | None = None) -> Tensor:
        """ε̂, whatever the network predicts: ``[batch, ...]`` float32."""
        gamma, sigma = self.schedule.at(timesteps, like=x_t)
        output = self.output(x_t, timesteps, labels).to(torch.float32)
        return to_noise(output, x_t, gamma, sigma, self.prediction)


def _like(value: Tensor, x_t: Tensor) -> Tensor:
    """On the device of ``x_t`` and of its precision, unless it counts."""
    return value.to(x_t.device, x_t.dtype if value.is_floating_point() else None)


def diffusion_model(
    module: nn.Module, denoiser: str = "denoiser", scheduler: str = "scheduler"
) -> DiffusionModel:
    """The diffusion model inside any module, its parts found by dotted attribute path.

    Args:
        module: E.g. a LightningModule written by somebody else.
        denoiser: Where its network is, e.g. ``"unet"`` or ``"pipeline.unet"``.
        scheduler: Where its noise scheduler is, e.g. ``"noise_scheduler"``; ``"."`` is the module itself.

    Raises:
        ConfigError: There is no such attribute, or it is no network or scheduler.
    """
    network = find(module, denoiser, "denoiser")
    if not isinstance(network, nn.Module):
        raise ConfigError(
            f"the denoiser of {type(module).__name__} is not a network",
            found=f"{denoiser} is a {type(network).__name__}",
            expected="a torch.nn.Module",
            fix=_built_late(module)
            or "name the attribute that holds the UNet or transformer, e.g. denoiser='unet'",
        )
    noise_scheduler = find(module, scheduler, "scheduler")
    if network is noise_scheduler:
        inside = ", ".join(f"{denoiser}.{name}" for name, _ in network.named_children()) or "nothing"
        raise ConfigError(
            f"the denoiser of {type(module).__name__} is its noise scheduler",
            found=f"{denoiser} for both",
            expected="the network alone, which predicts from x_t and a timestep",
            fix=f"name it, as denoiser='...': inside are {inside}",
        )
    return DiffusionModel(network, noise_schedule(noise_scheduler), prediction_type(noise_scheduler))


def find(module: object, path: str, role: str) -> Any:
    """The attribute at a dotted path; a single dot is the module itself.

    Raises:
        ConfigError: Some part of the path does not exist; names close to it are offered.
    """
    here: Any = module
    for name in path.split(".") if path != "." else ():
        if not hasattr(here, name):
            names = {*getattr(here, "__dict__", ()), *getattr(here, "_modules", ())}
            candidates = [n for n in names if n[:1] != "_" and not isinstance(getattr(here, n), bool)]
            close = near(name, candidates, 3, 0.4) or sorted(candidates)[:5]
            raise ConfigError(
                f"{type(module).__name__} has no {role} at {path!r}",
                found=f"{type(here).__name__} has no attribute {name!r}",
                expected=f"a dotted attribute path; near it: {', '.join(close) or 'none'}",
                fix=_built_late(module)
                or f"pass {role}='...' with the path of the {role} inside {type(module).__name__}",
            )
        here = getattr(here, name)
    return here


def _built_late(module: object) -> str:
    """What to do where a LightningModule may build its parts in a hook that no trainer has called yet."""
    own = [kind for kind in type(module).__mro__ if "lightning" not in kind.__module__.partition(".")[0]]
    hooks = [name for name in ("configure_model", "setup") if any(name in vars(kind) for kind in own)]
    if not hooks or compat.trainer_of(module) is not None:
        return ""
    return f"build it in __init__, or correct the path: {' and '.join(hooks)} of the module is called later"
