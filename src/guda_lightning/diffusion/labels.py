"""Whether a network takes the class labels of the data."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from guda_lightning.diffusion.calling import adapted
from guda_lightning.diffusion.model import DiffusionModel
from guda_lightning.errors import ConfigError


def refuse_labels(model: DiffusionModel, num_classes: int) -> None:
    """Refuse a network that cannot take the class labels of the data, or needs some and gets none.

    Args:
        model: The model, with the prompts of the data if there are any.
        num_classes: Number of classes of the data; 0 where it has no labels.

    Raises:
        ConfigError: It is such a network, of diffusers or MONAI; what others take is not known here.
    """
    if model.prompts is not None:
        return
    if model.conditional and not num_classes:
        raise ConfigError(
            "a label-conditional model needs data with class labels",
            found="data without labels",
            expected="a class for every image",
            fix="use a source with labels, or set conditional of the model to false",
        )
    name, taken = type(model.denoiser).__name__, _classes_of(model.denoiser)
    if taken is None:
        return
    if model.conditional and taken < num_classes:
        raise ConfigError(
            f"{name} has no class embeddings" if not taken else f"{name} has too few class embeddings",
            found=f"{taken or 'none'} for the {num_classes} classes of the data",
            expected=f"at least {num_classes}, as the model is conditional",
            fix=f"set num_class_embeds of the network to {num_classes}, or conditional of the model to false",
        )
    if taken and not model.conditional:
        raise ConfigError(
            f"{name} needs class labels, which an unconditional model does not give",
            found=f"{taken} class embeddings, and conditional=False",
            expected="both, or neither",
            fix="set model.init_args.conditional (with a module of your own, trainer.conditional, in Python "
            "conditional of FullModel.of) to true, "
            "or leave num_class_embeds of the network out",
        )


def num_labels(network: nn.Module) -> int | None:
    """How many labels a network has embeddings of, a DiT one more than classes; None: unknown."""
    classes = _classes_of(network)
    more = getattr(adapted(network), "config", {}).get("norm_type") == "ada_norm_zero"  # stands for no class
    return None if classes is None else classes + more


def _classes_of(network: nn.Module) -> int | None:
    """How many classes a network has embeddings for; None where that is unknown."""
    inner: Any = adapted(network)
    config = getattr(inner, "config", {})
    if "class_labels" not in inspect.signature(type(inner).forward).parameters:
        return None
    if "num_class_embeds" in config:
        return None if config["class_embed_type"] is not None else config["num_class_embeds"] or 0
    if config.get("norm_type") == "ada_norm_zero":  # DiT
        return int(config["num_embeds_ada_norm"])
    return inner.num_class_embeds or 0 if hasattr(inner, "num_class_embeds") else None  # MONAI
