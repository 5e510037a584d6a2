"""Encoders: what turns pictures into the vectors that similarities compare."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from pickle import UnpicklingError
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.functional import interpolate

from guda_lightning.data.images import from_unit
from guda_lightning.diffusion import weights_hash
from guda_lightning.errors import MissingExtraError, StoreError
from guda_lightning.latent.encoders import quiet, refuse_no_folder
from guda_lightning.storage.files import sha256_json

_FILTERS = {0: "nearest-exact", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers, as processors store them


class Encoder(ABC):
    """A callable from pictures to vectors; a new one fills in the three members below.

    Attributes:
        name: Of the similarities in score tables and their files.
    """

    name: ClassVar[str]

    @property
    @abstractmethod
    def hash(self) -> str:
        """What identifies its vectors: equal for encoders that give the same ones."""

    @abstractmethod
    def __call__(self, images: Tensor) -> Tensor:
        """Encode some pictures, on the device that they are on.

        Args:
            images: ``[batch, channels, height, width]`` in [-1, 1]; of one channel where the training images
                are grey.

        Returns:
            ``[batch, dims]``.
        """


class Pixels(Encoder):
    """The pixels themselves, as odd whole numbers in -255..255: no vector is zero, and products are exact."""

    name = "similarity"
    hash = "pixels"

    def __call__(self, images: Tensor) -> Tensor:
        """Pixels of ``[batch, channels, height, width]``, flattened, float64."""
        return 2 * from_unit(images).flatten(1).double() - 255


class Pretrained(Encoder):
    """A frozen network of transformers behind the resizing and scaling that its own processor would do.

    Pictures are resized as tensors and not rounded to whole numbers in between, which differs from the
    processor's by less than a step of 256 levels. Grey pictures are repeated to three channels.

    Args:
        path: Folder with the network and its ``preprocessor_config.json``, or its name on the hub.
    """

    kind: ClassVar[str]  # in errors
    example: ClassVar[str]  # a name on the hub
    model_types: ClassVar[tuple[str, ...]]  # of its configuration

    def __init__(self, path: str) -> None:
        self.path = path

    @cached_property
    def hash(self) -> str:
        """Identity of weights and preparation."""
        network, prepare = self._parts
        return sha256_json([self.kind, weights_hash(network.state_dict()), prepare])

    def __call__(self, images: Tensor) -> Tensor:
        """Features of ``[batch, 1 or 3, height, width]``: ``[batch, dims]`` float32."""
        network, prepare = self._parts
        network.to(images.device)
        pictures = prepared(images.float(), prepare)
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            try:
                return self.features(network, pictures)
            except ValueError as error:  # of a size that its positions do not have
                raise self._refused(error) from error

    @abstractmethod
    def load(self, config: Any) -> tuple[nn.Module, Mapping[str, Any]]:
        """The network of a configuration, and what ``from_pretrained`` tells of the loading."""

    @abstractmethod
    def features(self, network: nn.Module, images: Tensor) -> Tensor:
        """``[batch, dims]`` of prepared pictures ``[batch, 3, height, width]``."""

    @cached_property
    def _parts(self) -> tuple[nn.Module, Mapping[str, Any]]:
        try:
            from transformers import AutoConfig, AutoImageProcessor
        except ModuleNotFoundError as error:
            raise MissingExtraError("transformers", "text") from error
        try:
            refuse_no_folder(self.path)
            with quiet():
                config: Any = AutoConfig.from_pretrained(self.path)
                if config.model_type not in self.model_types:
                    raise ValueError(f"a network of kind {config.model_type}")
                processor: Any = AutoImageProcessor.from_pretrained(self.path)
                prepare = processor.to_dict()
                network, about = self.load(config)
            missing = sorted(about["missing_keys"])
            if missing:
                raise ValueError(f"{len(missing)} weights are missing, such as {missing[0]}")
        except UnpicklingError as error:  # whose words advise to run the code
            raise self._refused("weights that are not read without running code of their file") from error
        except (OSError, RuntimeError, ValueError, SafetensorError) as error:
            raise self._refused(error) from error
        chosen = {name: prepare[name] for name in _PREPARATION if name in prepare}
        return network.eval().requires_grad_(False), chosen

    def _refused(self, reason: object) -> StoreError:
        return StoreError(
            f"the {self.kind} {self.path} cannot be read",
            found=" ".join(str(reason).split())[:200],
            expected=f"a folder with preprocessor and weights of a {self.kind}, or a name on the hub",
            fix=f"set attributor.init_args.encoder.init_args.path, e.g. to {self.example}; a hub name "
            "needs a connection the first time",
        )


class CLIPImages(Pretrained):
    """Projected picture embeddings of a CLIP (arXiv 2103.00020)."""

    name, kind, example = "clip", "CLIP", "openai/clip-vit-large-patch14"
    model_types = ("clip", "clip_vision_model")

    def load(self, config: Any) -> tuple[nn.Module, Mapping[str, Any]]:
        """The pictures' tower; of a whole CLIP, that of the texts is left out."""
        from transformers import CLIPVisionModelWithProjection

        tower = getattr(config, "vision_config", config)
        tower.projection_dim = config.projection_dim  # a whole CLIP's own holds, whatever its tower says
        kind: Any = CLIPVisionModelWithProjection
        loaded: tuple[nn.Module, Mapping[str, Any]] = kind.from_pretrained(
            self.path, config=tower, output_loading_info=True
        )
        return loaded

    def features(self, network: nn.Module, images: Tensor) -> Tensor:
        """The projected embeddings."""
        embeds: Tensor = network(images).image_embeds
        return embeds


class DINOv2(Pretrained):
    """Class tokens of the last layer of a DINOv2 (arXiv 2304.07193)."""

    name, kind, example = "dinov2", "DINOv2", "facebook/dinov2-base"
    model_types = ("dinov2", "dinov2_with_registers")

    def load(self, config: Any) -> tuple[nn.Module, Mapping[str, Any]]:
        """The network without a head."""
        from transformers import AutoModel

        kind: Any = AutoModel
        loaded: tuple[nn.Module, Mapping[str, Any]] = kind.from_pretrained(
            self.path, config=config, output_loading_info=True
        )
        return loaded

    def features(self, network: nn.Module, images: Tensor) -> Tensor:
        """The normalised class tokens."""
        states: Tensor = network(images).last_hidden_state
        return states[:, 0]


# What of a processor's settings changes the picture.
_PREPARATION = (
    *("do_resize", "size", "resample", "do_center_crop", "crop_size"),
    *("do_normalize", "image_mean", "image_std"),
)


def prepared(images: Tensor, settings: Mapping[str, Any]) -> Tensor:
    """Resize, crop and scale pictures as an image processor of transformers would.

    Args:
        images: ``[batch, 1 or 3, height, width]`` in [-1, 1].
        settings: Of the processor, as its ``to_dict`` gives them.

    Returns:
        ``[batch, 3, height, width]``, about standardised.
    """
    pictures = (images.expand(-1, 3, -1, -1) + 1) / 2
    if settings.get("do_resize", True):
        size = _size(settings["size"], pictures.shape[-2], pictures.shape[-1])
        mode = _FILTERS.get(settings.get("resample", 3), "bicubic")  # torch has no Lanczos filter
        smooth = mode in ("bilinear", "bicubic")
        pictures = interpolate(pictures, size, mode=mode, antialias=smooth).clamp(0, 1)
    if settings.get("do_center_crop"):
        height, width = settings["crop_size"]["height"], settings["crop_size"]["width"]
        top, left = (pictures.shape[-2] - height) // 2, (pictures.shape[-1] - width) // 2
        pictures = pictures[..., max(top, 0) : max(top, 0) + height, max(left, 0) : max(left, 0) + width]
    if settings.get("do_normalize", True):
        mean, std = (pictures.new_tensor(settings[name]) for name in ("image_mean", "image_std"))
        pictures = (pictures - mean[:, None, None]) / std[:, None, None]
    return pictures


def _size(size: Mapping[str, int], height: int, width: int) -> tuple[int, int]:
    """Height and width after resizing; the shortest edge keeps the shape, rounded down as processors do."""
    if "shortest_edge" not in size:
        return size["height"], size["width"]
    edge, shorter = size["shortest_edge"], min(height, width)
    return int(edge * height / shorter), int(edge * width / shorter)
