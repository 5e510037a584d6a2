"""Noise schedulers that are not of diffusers: the noise levels of training, and what the network predicts."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from guda_lightning.errors import ConfigError, StoreError
from guda_lightning.functional.schedule import alphas_cumprod_of
from guda_lightning.types import PredictionType

# Where schedulers say what the network predicts, and in which words: those of diffusers and MONAI,
# denoising-diffusion-pytorch, latent-diffusion, guided-diffusion.
SAYS_PREDICTION = ("prediction_type", "objective", "parameterization", "model_mean_type")
_WORDS: dict[PredictionType, tuple[str, ...]] = {
    "epsilon": ("epsilon", "eps", "pred_noise"),
    "sample": ("sample", "x0", "pred_x0", "start_x"),
    "v_prediction": ("v_prediction", "v", "pred_v", "velocity"),
}


@dataclass(frozen=True, eq=False)
class GivenScheduler:
    """What counts of a noise scheduler that is not of diffusers.

    Attributes:
        alphas_cumprod: ``[timesteps]``, ᾱ_t.
        prediction_type: What the network predicts.
        clip_sample: Whether sampling clips predicted images to [-1, 1]; None where nothing says so.
    """

    alphas_cumprod: Tensor
    prediction_type: PredictionType
    clip_sample: bool | None = None

    @classmethod
    def of(cls, scheduler: Any) -> GivenScheduler:
        """Take over what an object says: ``alphas_cumprod`` or ``betas``, and one of ``SAYS_PREDICTION``.

        Raises:
            ConfigError: It does not say both, or its timesteps are no indices.
        """
        name = type(scheduler).__name__
        alphas_cumprod = _alphas_cumprod(scheduler)
        said = _said(scheduler, *SAYS_PREDICTION)
        if said is None:
            raise ConfigError(
                f"{name} does not say what the network predicts",
                found=f"none of the attributes {', '.join(SAYS_PREDICTION)}",
                expected="the network's prediction: epsilon (the noise), v_prediction or sample (the image)",
                fix="set it before, e.g. scheduler.prediction_type = 'epsilon'",
            )
        prediction = known_prediction(said[1], f"{name}.{said[0]}")
        _refuse_scaled(scheduler, len(alphas_cumprod))
        clips = _said(scheduler, "clip_sample")
        return cls(alphas_cumprod, prediction, None if clips is None else bool(clips[1]))

    @property
    def config(self) -> dict[str, Any]:
        """What a diffusers scheduler that walks these noise levels is built with."""
        steps: dict[str, Any] = {"num_train_timesteps": len(self.alphas_cumprod)}
        clips = {} if self.clip_sample is None else {"clip_sample": self.clip_sample}
        return {**steps, "prediction_type": self.prediction_type, **clips}

    def save_pretrained(self, folder: Path) -> None:
        """Write it into a folder, as ``load`` reads it."""
        folder.mkdir(parents=True, exist_ok=True)
        about = {"prediction_type": self.prediction_type, "clip_sample": str(self.clip_sample)}
        save_file({"alphas_cumprod": self.alphas_cumprod.contiguous()}, _file(folder), about)

    @classmethod
    def load(cls, folder: Path) -> GivenScheduler | None:
        """Read it from a folder; None where there is none.

        Raises:
            StoreError: The file is damaged.
        """
        path = _file(folder)
        if not path.is_file():
            return None
        try:
            with safe_open(path, "pt") as file:
                about, levels = file.metadata(), file.get_tensor("alphas_cumprod")
            clips = {"True": True, "False": False}.get(about["clip_sample"])
            return cls(levels, known_prediction(about["prediction_type"], str(path)), clips)
        except (OSError, SafetensorError, KeyError, TypeError) as error:
            raise StoreError(
                f"{path} cannot be read",
                found=str(error),
                expected="the noise levels of the full model, as `guda fit` wrote them",
                fix="restore the file, or run `guda fit` again",
            ) from error


def known_prediction(word: object, where: str) -> PredictionType:
    """The prediction type that a word of any library means.

    Args:
        word: A string, or a member of an enumeration.
        where: What says so, for the message.

    Raises:
        ConfigError: The word is unknown.
    """
    texts = {str(word).lower()}
    if isinstance(word, enum.Enum):
        texts = {str(word.value).lower(), word.name.lower()}
    for prediction, words in _WORDS.items():
        if texts & {*words}:
            return prediction
    known = [name for name in get_args(PredictionType) if name in _WORDS]
    raise ConfigError(
        "the noise scheduler's prediction type is unknown",
        found=f"{word} in {where}",
        expected=", ".join(known),
        fix="set prediction_type of the scheduler to what the network predicts",
    )


def _said(scheduler: Any, *names: str) -> tuple[str, Any] | None:
    """The first of some attributes that a scheduler has, or its configuration, which goes first."""
    for name in names:
        for place in (getattr(scheduler, "config", None), scheduler):
            if place is not None and hasattr(place, name):
                return name, getattr(place, name)
    return None


def _file(folder: Path) -> Path:
    return folder / "alphas_cumprod.safetensors"


def _alphas_cumprod(scheduler: Any) -> Tensor:
    found = {name: _values(getattr(scheduler, name, None)) for name in ("alphas_cumprod", "betas")}
    given, betas = found["alphas_cumprod"], found["betas"]
    # MONAI's add_noise leaves its own in the precision of the images; betas stay.
    if given is not None and (betas is None or given.dtype in (torch.float32, torch.float64)):
        return given
    if betas is not None:
        return alphas_cumprod_of(betas)
    if given is not None:
        return given
    raise ConfigError(
        f"{type(scheduler).__name__} is no noise scheduler of a known kind",
        found="neither alphas_cumprod nor betas with one number for each timestep",
        expected="a scheduler of diffusers, or any object with alphas_cumprod or betas: docs/models.md",
        fix="name the attribute that holds them, e.g. scheduler='diffusion', or '.' for the module itself; "
        "where there is none, give the module a diffusers scheduler of the same noise levels",
    )


def _values(found: object) -> Tensor | None:
    """A copy of a list of numbers; None for anything else."""
    try:
        values = torch.as_tensor(found).detach().to("cpu", copy=True)
    except (TypeError, ValueError, RuntimeError):
        return None
    return values if values.ndim == 1 and values.numel() > 1 and values.is_floating_point() else None


def _refuse_scaled(scheduler: Any, timesteps: int) -> None:
    """Refuse a diffusion whose network takes other timesteps than 0, 1, ... (guided-diffusion, DiT)."""
    given = getattr(scheduler, "timestep_map", None)
    spaced = given is not None and list(given) != list(range(timesteps))
    if spaced or (getattr(scheduler, "rescale_timesteps", False) and timesteps != 1000):
        raise ConfigError(
            f"the timesteps of {type(scheduler).__name__} are not those of its network",
            found=f"a respaced diffusion of {timesteps} steps" if spaced else "rescale_timesteps=True",
            expected="the diffusion of training, whose network takes 0, 1, ...",
            fix="build it with timestep_respacing='' and rescale_timesteps=False",
        )
