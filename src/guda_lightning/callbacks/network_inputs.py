"""What the network of somebody else's module takes, as far as its configuration says, and a first try."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from guda_lightning.diffusion import DiffusionModel, evaluating
from guda_lightning.errors import ConfigError, GudaError, QueryError


class NetworkInputs:
    """Refuses images and labels that a network cannot take, before anything is scored.

    Args:
        model: The network; ``config``, as networks of diffusers have it, says what it takes.

    Attributes:
        channels: Channels of its images; None where it does not say.
        size: Their height and width; None where it does not say.
        classes: Number of its class labels; None where it does not say, or takes none.
    """

    def __init__(self, model: DiffusionModel) -> None:
        config: Any = getattr(model.denoiser, "config", None)
        self._model, self._tried = model, False
        self._silent = config is None or "num_class_embeds" not in config
        self.channels: int | None = getattr(config, "in_channels", None)
        self.size = model.sample_size
        self.classes: int | None = getattr(config, "num_class_embeds", None)
        self._takes_labels = self.classes is not None or getattr(config, "class_embed_type", None) is not None

    def check_label_key(self, label_key: str | int | None) -> None:
        """Refuse a label key for a network without labels, and none for one with labels.

        Raises:
            ConfigError: One of these.
        """
        if self._silent or self._takes_labels == (label_key is not None):
            return
        name = type(self._model.denoiser).__name__
        raise ConfigError(
            f"the {name} takes {'class' if self._takes_labels else 'no class'} labels",
            found=f"label_key={label_key!r}, and num_class_embeds {self.classes} in its configuration",
            expected="label_key for a label-conditional network, and for no other",
            fix="pass label_key=... with the key of the labels in a validation batch"
            if self._takes_labels
            else "leave label_key out",
        )

    def check(self, images: Tensor, labels: Tensor | None, where: str) -> None:
        """Refuse what the network cannot take; evaluates it on the first image that it ever gets.

        Args:
            images: ``[batch, channels, height, width]`` in [-1, 1], at least one.
            labels: ``[batch]`` int64, for a label-conditional network.
            where: What the images are, for messages.

        Raises:
            QueryError: The images have other channels, or a label has no class.
            ConfigError: The network cannot be called.
        """
        if self.channels not in (None, images.shape[1]):
            last = images.shape[-1] == self.channels
            raise QueryError(
                f"{where} do not fit the network",
                found=f"images {list(images.shape)}",
                expected=f"[batch, {self.channels}, height, width], as its in_channels say",
                fix="move their channels forward in the data: images.permute(0, 3, 1, 2)"
                if last
                else "pass image_key=... of what the network takes, such as latents in place of pictures",
            )
        if labels is not None and self.classes is not None:
            wrong = labels[(labels < 0) | (labels >= self.classes)]
            if len(wrong):
                raise QueryError(
                    "a validation sample has a label that the network has no class for",
                    found=f"label {int(wrong[0])}",
                    expected=f"0 to {self.classes - 1}",
                    fix="pass label_key=... of the class labels, or correct them in the data",
                )
        if not self._tried:
            self._try(images[:1], None if labels is None else labels[:1])
            self._tried = True

    def _try(self, image: Tensor, labels: Tensor | None) -> None:
        weights = [*self._model.denoiser.parameters(), *self._model.denoiser.buffers(), image]
        device, timesteps = weights[0].device, torch.zeros(1, dtype=torch.int64)
        inputs = (image.to(device), timesteps.to(device), None if labels is None else labels.to(device))
        try:
            with evaluating(self._model.denoiser):
                self._model.predicted_noise(*inputs)
        except GudaError:
            raise
        except Exception as error:  # a network of the user's: it may raise anything
            reason = " ".join(str(error).split())
            label = "" if labels is None else ", class_labels=[batch]"
            raise ConfigError(
                f"the {type(self._model.denoiser).__name__} cannot be called on a validation image",
                found=f"images {list(image.shape)}: {type(error).__name__}: {reason}",
                expected=f"a network called as denoiser(x_t, timesteps{label}) that returns the shape of x_t",
                fix="pass denoiser=... with the path of such a network, or of one around it (docs/models.md)",
            ) from error
