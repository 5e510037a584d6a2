"""What a noise scheduler says of training: its noise levels and what the network predicts, or why not."""

from __future__ import annotations

from typing import Any

from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from guda_lightning import compat
from guda_lightning.diffusion.given_scheduler import GivenScheduler, known_prediction
from guda_lightning.errors import ConfigError
from guda_lightning.functional.schedule import NoiseSchedule
from guda_lightning.types import PredictionType

_EDM = "its network takes images and noise levels in EDM's preconditioning, not x_t and a timestep"
_CONSISTENCY = "it samples from a consistency model, which predicts no noise"
_EXPLODING = "its network takes x_0 + σ ε, the variance-exploding form"
_CONTINUOUS = "its network takes a real number in place of a timestep"
_TOKENS = "it noises discrete tokens"
_SAMPLER = "it is a sampler alone, without the noise levels of training"
_STAGES = "its noise levels differ from stage to stage of a video's resolution"

# Schedulers of diffusers 0.42 whose models are of another kind.
UNSUPPORTED = {
    "AmusedScheduler": _TOKENS,
    "BlockRefinementScheduler": _TOKENS,
    "CMStochasticIterativeScheduler": _CONSISTENCY,
    "ConsistencyDecoderScheduler": _CONSISTENCY,
    "CosineDPMSolverMultistepScheduler": _EDM,
    "DDPMWuerstchenScheduler": _CONTINUOUS,
    "DiscreteDDIMScheduler": _TOKENS,
    "EDMDPMSolverMultistepScheduler": _EDM,
    "EDMEulerScheduler": _EDM,
    "EntropyBoundScheduler": _TOKENS,
    "FlowMapEulerDiscreteScheduler": "it samples from a flow map, whose network takes two timesteps",
    "HeliosDMDScheduler": _STAGES,
    "HeliosScheduler": _STAGES,
    "IPNDMScheduler": _CONTINUOUS,
    "KarrasVeScheduler": _EXPLODING,
    "LTXEulerAncestralRFScheduler": _SAMPLER,
    "MiniMaxH3Scheduler": _SAMPLER,
    "PiflowScheduler": "its network predicts a whole grid of steps at once",
    "RFD4ProteinaScheduler": "it noises coordinates of proteins",
    "RePaintScheduler": "it fills in images, and does not say what the network predicts",
    "SCMScheduler": _CONTINUOUS,
    "ScoreSdeVeScheduler": _EXPLODING,
    "ScoreSdeVpScheduler": _CONTINUOUS,
    "VQDiffusionScheduler": _TOKENS,
}


def adopted(scheduler: Any) -> Any:
    """The scheduler as it is kept, stored and sampled with.

    Diffusers' own classes stay as they are, but for solvers of a flow, which become the flow's scheduler. A
    subclass of one becomes its base where that means the same; anything else with ``alphas_cumprod`` or
    ``betas`` becomes a ``GivenScheduler``.

    Raises:
        ConfigError: It is of no such kind.
    """
    kind = _diffusers_class(scheduler)
    if isinstance(scheduler, GivenScheduler):
        return scheduler
    if kind is type(scheduler):
        return _flow(scheduler.config) if _solves_flow(scheduler.config) else scheduler
    if kind is not None:
        base = adopted(kind.from_config(compat.scheduler_config(scheduler)))
        _refuse(base)
        if _schedule(base).hash == _schedule(scheduler).hash:
            return base
    return GivenScheduler.of(scheduler)


def noise_schedule(scheduler: Any) -> NoiseSchedule:
    """The training noise schedule of a scheduler.

    Args:
        scheduler: One of diffusers, or any object with ``alphas_cumprod`` or ``betas``.

    Raises:
        ConfigError: Its models are neither of the DDPM nor of the flow matching kind; the message says why.
    """
    kept = adopted(scheduler)
    _refuse(kept)
    return _schedule(kept)


def prediction_type(scheduler: Any) -> PredictionType:
    """What a model trained with this scheduler predicts.

    Raises:
        ConfigError: The scheduler's ``prediction_type`` is unknown.
    """
    kept = adopted(scheduler)
    _refuse(kept)
    if _is_flow(kept):
        return "flow"
    if isinstance(kept, GivenScheduler):
        return kept.prediction_type
    return known_prediction(kept.config.get("prediction_type"), "the scheduler's configuration")


def _schedule(scheduler: Any) -> NoiseSchedule:
    if _is_flow(scheduler):
        # set_timesteps() overwrites the sigmas: rebuild the grid of training from the configuration.
        sigmas = type(scheduler).from_config(compat.scheduler_config(scheduler)).sigmas
        return NoiseSchedule.from_flow(sigmas[sigmas > 0], scheduler.config.num_train_timesteps)
    return NoiseSchedule.from_alphas_cumprod(scheduler.alphas_cumprod)


def _solves_flow(config: Any) -> bool:
    """Whether a solver of DDPM models is set to sample from a flow."""
    flow = config.get("use_flow_sigmas") and config.get("prediction_type") == "flow_prediction"
    return bool(flow) and "flow_shift" in config


def _flow(config: Any) -> FlowMatchEulerDiscreteScheduler:
    """The scheduler that a solver's flow is trained with."""
    shift = 1.0 if config.get("use_dynamic_shifting") else config["flow_shift"]
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=config["num_train_timesteps"], shift=shift)


def _is_flow(scheduler: Any) -> bool:
    kind = _diffusers_class(scheduler)
    return kind is not None and "FlowMatch" in kind.__name__


def _diffusers_class(scheduler: object) -> Any:
    """The class of diffusers that a scheduler is of, or nearest to; None for one of another origin."""
    import diffusers

    kinds = (kind for kind in type(scheduler).__mro__ if issubclass(kind, SchedulerMixin))
    # Some of its schedulers are only in modules of their own.
    return next(
        (
            kind
            for kind in kinds
            if kind is not SchedulerMixin
            and (getattr(diffusers, kind.__name__, None) is kind or kind.__name__ in UNSUPPORTED)
        ),
        None,
    )


def _refuse(scheduler: Any) -> None:
    """Refuse schedulers of diffusers whose models are of another kind.

    Raises:
        ConfigError: It is such a scheduler, or such are its settings.
    """
    if isinstance(scheduler, GivenScheduler):
        return
    name, config = type(scheduler).__name__, scheduler.config
    prediction = config.get("prediction_type")
    problem, refused = f"{name} is not supported as it is configured", None
    if name in UNSUPPORTED or not (_is_flow(scheduler) or hasattr(scheduler, "alphas_cumprod")):
        problem = f"models of {name} are not supported"
        refused = (
            UNSUPPORTED.get(name, "it has no alphas_cumprod"),
            "train with diffusers.DDPMScheduler, or diffusers.FlowMatchEulerDiscreteScheduler for a flow",
        )
    elif (solver := bool(config.get("use_flow_sigmas"))) != (prediction == "flow_prediction"):
        refused = (
            f"use_flow_sigmas={solver}, prediction_type={prediction!r}",
            "for a flow set use_flow_sigmas to true and prediction_type to flow_prediction; else neither",
        )
    elif config.get("invert_sigmas"):
        refused = (
            "invert_sigmas=True: the network's time runs from noise to image",
            "leave invert_sigmas out, and give the network 1 - t in a module around it: docs/models.md",
        )
    elif config.get("timestep_type") == "continuous":
        refused = (
            "timestep_type='continuous': the network takes log σ / 4 in place of a timestep",
            "set timestep_type to discrete, or train with diffusers.DDPMScheduler",
        )
    if refused is not None:
        expected = "a scheduler of the DDPM or the FlowMatch kind: the table of docs/models.md"
        raise ConfigError(problem, found=refused[0], expected=expected, fix=refused[1])
