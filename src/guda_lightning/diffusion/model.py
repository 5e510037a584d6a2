"""A denoiser together with its noise schedule: the one way the rest of the code calls a network."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

import torch
from torch import Tensor, nn

from guda_lightning.errors import ConfigError
from guda_lightning.functional.prediction import to_noise
from guda_lightning.functional.schedule import NoiseSchedule
from guda_lightning.types import PredictionType

Condition = Callable[[Tensor], Mapping[str, Tensor]]  # numbers of prompts to arguments of a network


@dataclass(frozen=True)
class DiffusionModel:
    """A network that denoises, and what its output means.

    Attributes:
        denoiser: Any diffusers model, or any module called as ``denoiser(x_t, timesteps)`` and, for a
            label-conditional model, ``denoiser(x_t, timesteps, class_labels=labels)``, that returns a
            tensor, a tuple that starts with one, or an object with the attribute ``sample``.
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
            condition = {name: value.to(x_t.device, x_t.dtype) for name, value in embedded}
        elif labels is not None:
            condition = {"class_labels": labels}
        if _named(type(self.denoiser)):
            output = output_tensor(self.denoiser(hidden_states=x_t, timestep=model_timesteps, **condition))
        else:
            output = output_tensor(self.denoiser(x_t, model_timesteps, **condition))
        # A network that also predicts its variance gives twice the channels, the prediction first.
        output = output[:, : x_t.shape[1]] if output.shape[1] == 2 * x_t.shape[1] else output
        return output.to(x_t.dtype)

    def predicted_noise(self, x_t: Tensor, timesteps: Tensor, labels: Tensor | None = None) -> Tensor:
        """ε̂, whatever the network predicts: ``[batch, ...]`` float32."""
        gamma, sigma = self.schedule.at(timesteps, like=x_t)
        output = self.output(x_t, timesteps, labels).to(torch.float32)
        return to_noise(output, x_t, gamma, sigma, self.prediction)


def _named(network: type[nn.Module]) -> bool:
    """Whether a network is called as diffusers' transformers are, whose second argument is the prompt."""
    return "hidden_states" in inspect.signature(network.forward).parameters


def output_tensor(output: Any) -> Tensor:
    """The prediction in whatever a network returns: a tensor, a tuple, or an object with ``sample``."""
    if isinstance(output, Tensor):
        return output
    prediction: Tensor = output[0] if isinstance(output, tuple) else output.sample
    return prediction


def diffusion_model(
    module: nn.Module, denoiser: str = "denoiser", scheduler: str = "scheduler"
) -> DiffusionModel:
    """The diffusion model inside any module, its parts found by dotted attribute path.

    Args:
        module: E.g. a LightningModule written by somebody else.
        denoiser: Where its network is, e.g. ``"unet"`` or ``"pipeline.unet"``.
        scheduler: Where its diffusers noise scheduler is, e.g. ``"noise_scheduler"``.

    Raises:
        ConfigError: There is no such attribute, or it is no network or scheduler.
    """
    network = find(module, denoiser, "denoiser")
    if not isinstance(network, nn.Module):
        raise ConfigError(
            f"the denoiser of {type(module).__name__} is not a network",
            found=f"{denoiser} is a {type(network).__name__}",
            expected="a torch.nn.Module",
            fix="name the attribute that holds the UNet or transformer, e.g. denoiser='unet'",
        )
    noise_scheduler = find(module, scheduler, "scheduler")
    return DiffusionModel(network, noise_schedule(noise_scheduler), prediction_type(noise_scheduler))


def find(module: object, path: str, role: str) -> Any:
    """The attribute at a dotted path.

    Raises:
        ConfigError: Some part of the path does not exist; names close to it are offered.
    """
    here: Any = module
    for name in path.split("."):
        if not hasattr(here, name):
            names = {*getattr(here, "__dict__", ()), *getattr(here, "_modules", ())}
            candidates = [n for n in names if not n.startswith("_")]
            near = difflib.get_close_matches(name, candidates, n=3, cutoff=0.4) or sorted(candidates)[:5]
            raise ConfigError(
                f"{type(module).__name__} has no {role} at {path!r}",
                found=f"{type(here).__name__} has no attribute {name!r}",
                expected=f"a dotted attribute path; near it: {', '.join(near) or 'none'}",
                fix=f"pass {role}='...' with the path of the {role} inside {type(module).__name__}",
            )
        here = getattr(here, name)
    return here


def noise_schedule(scheduler: Any) -> NoiseSchedule:
    """The training noise schedule of a diffusers scheduler.

    Raises:
        ConfigError: It is neither a DDPM-type nor a flow-matching scheduler.
    """
    if hasattr(scheduler, "alphas_cumprod"):
        return NoiseSchedule.from_alphas_cumprod(scheduler.alphas_cumprod)
    if _is_flow(scheduler):
        # set_timesteps() overwrites the sigmas: rebuild the grid of training from the configuration.
        sigmas = type(scheduler).from_config(scheduler.config).sigmas
        return NoiseSchedule.from_flow(sigmas[sigmas > 0], scheduler.config.num_train_timesteps)
    raise ConfigError(
        "the noise scheduler is of an unknown kind",
        found=type(scheduler).__name__,
        expected="a diffusers scheduler with alphas_cumprod, or a FlowMatch*Scheduler",
        fix="pass the scheduler that the model was trained with, e.g. diffusers.DDPMScheduler",
    )


def prediction_type(scheduler: Any) -> PredictionType:
    """What a model trained with this scheduler predicts.

    Raises:
        ConfigError: The scheduler's ``prediction_type`` is unknown.
    """
    if _is_flow(scheduler):
        return "flow"
    prediction = getattr(scheduler.config, "prediction_type", None)
    known: dict[str, PredictionType] = {name: name for name in get_args(PredictionType)}
    if prediction not in known:
        raise ConfigError(
            "the noise scheduler's prediction type is unknown",
            found=prediction,
            expected=", ".join(known),
            fix="set prediction_type in the scheduler's configuration to what the model predicts",
        )
    return known[prediction]


def _is_flow(scheduler: Any) -> bool:
    return "FlowMatch" in type(scheduler).__name__
