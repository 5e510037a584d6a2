"""``Encoders``: what stands around the denoiser of a text-to-image pipeline."""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from guda_lightning.diffusion import evaluating, weights_hash
from guda_lightning.diffusion.checkpoints import weights_variant
from guda_lightning.diffusion.saved import DENOISERS
from guda_lightning.errors import DataError, MissingExtraError, StoreError
from guda_lightning.storage.files import sha256_json

# What each pipeline's `encode_prompt` returns, by the names of its denoiser's arguments.
_EMBEDDINGS: Mapping[str, tuple[str | None, ...]] = {
    "StableDiffusionPipeline": ("encoder_hidden_states", None),
    "PixArtAlphaPipeline": ("encoder_hidden_states", "encoder_attention_mask", None, None),
    "PixArtSigmaPipeline": ("encoder_hidden_states", "encoder_attention_mask", None, None),
    "StableDiffusion3Pipeline": ("encoder_hidden_states", None, "pooled_projections", None),
}
_HUB_NAME = re.compile(r"\w[\w.-]*(/[\w.-]+)?")
_NOT_NEEDED = ("safety_checker", "feature_extractor", "image_encoder")  # to encode images and prompts


class Encoders:
    """VAE, tokenizers and text encoders of a diffusers pipeline, frozen; its denoiser is never loaded.

    Args:
        pretrained: Folder of a diffusers pipeline, or its name on the hub.
        batch_size: Images or prompts at a time; changes nothing but memory.
    """

    def __init__(self, pretrained: str, batch_size: int = 8) -> None:
        self.pretrained, self.batch_size = pretrained, batch_size
        self.device = torch.device("cpu")
        if torch.cuda.is_available():  # of several processes each has its own, before training says so
            place = int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count()
            self.device = torch.device("cuda", place)

    @cached_property
    def pipeline(self) -> Any:
        """The pipeline without its denoiser.

        Raises:
            StoreError: It cannot be read, or is of a kind whose denoiser is called in another way.
            MissingExtraError: transformers is not installed.
        """
        from diffusers import DiffusionPipeline

        index = pipeline_index(self.pretrained)
        name = index.get("_class_name")
        if name not in _EMBEDDINGS:
            raise StoreError(
                f"{self.pretrained} is a pipeline of another kind",
                found=name,
                expected=" or ".join(_EMBEDDINGS),
                fix="bring one of these, or wrap the denoiser in a LightningModule of your own",
            )
        without: dict[str, Any] = dict.fromkeys(part for part in (*DENOISERS, *_NOT_NEEDED) if part in index)
        if "requires_safety_checker" in index:
            without["requires_safety_checker"] = False
        folders = sorted(Path(self.pretrained).glob("*/"))
        variant = next(filter(None, map(weights_variant, folders)), None)
        try:
            with quiet():
                return DiffusionPipeline.from_pretrained(self.pretrained, variant=variant, **without)
        except (OSError, ValueError, SafetensorError) as error:
            raise unreadable(self.pretrained, error) from error

    @cached_property
    def hash(self) -> str:
        """Identity of everything that turns images and texts into numbers."""
        scale = [self.pipeline.vae.config.scaling_factor, self._shift]
        weights = {name: weights_hash(part.state_dict()) for name, part in self._networks.items()}
        tokenizers = [
            [sorted(tokenizer.get_vocab().items()), tokenizer.model_max_length]
            for tokenizer in self._tokenizers
        ]
        return sha256_json([type(self.pipeline).__name__, scale, weights, tokenizers])

    def latents(self, images: Tensor) -> Tensor:
        """The mean of each image's latents, scaled as the denoiser takes them: ``[batch, ...]`` float32.

        Args:
            images: ``[batch, 3, height, width]`` in [-1, 1].
        """
        vae, found = self.pipeline.vae.to(self.device), []
        with evaluating(vae):
            for part in images.split(self.batch_size):
                mean = vae.encode(part.to(self.device)).latent_dist.mode()
                found.append(((mean - self._shift) * vae.config.scaling_factor).cpu().float())
        vae.to("cpu")  # what trains next may need the room
        return torch.cat(found)

    def images(self, latents: Tensor) -> Tensor:
        """The picture of each latent, ``[batch, 3, height, width]`` float32 clipped to [-1, 1].

        Args:
            latents: ``[batch, channels, height, width]``, scaled as the denoiser takes them.
        """
        vae, found = self.pipeline.vae.to(self.device), []
        with evaluating(vae):
            for part in latents.split(self.batch_size):
                scaled = part.to(self.device) / vae.config.scaling_factor + self._shift
                found.append(vae.decode(scaled).sample.clamp(-1, 1).cpu().float())
        vae.to("cpu")
        return torch.cat(found)

    def embeddings(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Embeddings of prompts, ``[texts, ...]`` float32 each, by the names of the denoiser's arguments.

        Raises:
            DataError: A tokenizer would cut a prompt.
        """
        self._refuse_truncated(texts)
        names = _EMBEDDINGS[type(self.pipeline).__name__]
        accepted = inspect.signature(self.pipeline.encode_prompt).parameters
        others = [name for name in ("prompt_2", "prompt_3") if name in accepted]
        parts: list[dict[str, Tensor]] = []
        for network in self._text_encoders:
            network.to(self.device)
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            for start in range(0, len(texts), self.batch_size):
                encoded = self.pipeline.encode_prompt(
                    prompt=list(texts[start : start + self.batch_size]),
                    device=self.device,
                    num_images_per_prompt=1,
                    do_classifier_free_guidance=False,
                    **dict.fromkeys(others),  # the same prompt for every text encoder
                )
                pairs = zip(names, encoded, strict=True)
                parts.append({name: value.cpu().float() for name, value in pairs if name is not None})
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _refuse_truncated(self, texts: Sequence[str]) -> None:
        for tokenizer in self._tokenizers:
            most = min(tokenizer.model_max_length, self._longest)
            lengths = [len(ids) for ids in tokenizer(list(texts), truncation=False, verbose=False).input_ids]
            long = [(text, length) for text, length in zip(texts, lengths, strict=True) if length > most]
            if long:
                text, length = long[0]
                kept = tokenizer(text, truncation=True, max_length=most).input_ids
                raise DataError(
                    f"the tokenizer cuts {len(long)} of {len(texts)} prompts, and with them words of a style",
                    found=f"{length} tokens of {text!r}, of which it keeps "
                    f"{tokenizer.decode(kept, skip_special_tokens=True)!r}",
                    expected=f"at most {most} tokens",
                    fix="shorten the prompts, or take a pipeline with a longer context",
                )

    @property
    def _longest(self) -> int:
        """Tokens that the pipeline itself keeps of a prompt, whatever the tokenizer would."""
        limit = inspect.signature(self.pipeline.encode_prompt).parameters.get("max_sequence_length")
        return sys.maxsize if limit is None else int(limit.default)

    @property
    def _shift(self) -> float:
        """What is subtracted from latents before scaling."""
        return getattr(self.pipeline.vae.config, "shift_factor", None) or 0.0

    @property
    def _text_encoders(self) -> list[nn.Module]:
        return [part for name, part in self._networks.items() if name.startswith("text_encoder")]

    @property
    def _networks(self) -> dict[str, nn.Module]:
        parts = self.pipeline.components.items()
        return {name: part for name, part in parts if isinstance(part, nn.Module)}

    @property
    def _tokenizers(self) -> list[Any]:
        parts = self.pipeline.components.items()
        return [part for name, part in sorted(parts) if name.startswith("tokenizer") and part is not None]


@contextmanager
def quiet() -> Iterator[None]:
    """Without the bars and notes of the libraries, which would be about every small part that is read."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    libraries = (of_diffusers, of_transformers)
    before = [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, (verbosity, bar) in zip(libraries, before, strict=True):
            library.set_verbosity(verbosity)
            if bar:
                library.enable_progress_bar()


def pipeline_index(pretrained: str) -> dict[str, Any]:
    """The components of a diffusers pipeline: name to library and class.

    Raises:
        StoreError: There is no such folder or hub name.
        MissingExtraError: transformers is not installed.
    """
    try:
        import transformers  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError("transformers", "text") from error
    with quiet():
        from diffusers import DiffusionPipeline

    if Path(pretrained).is_dir() and not (Path(pretrained) / "model_index.json").is_file():
        raise unreadable(
            pretrained, f"a folder with {sorted(p.name for p in Path(pretrained).iterdir())[:6]}"
        )
    try:
        refuse_no_folder(pretrained)
        index: dict[str, Any] = DiffusionPipeline.load_config(pretrained)
    except (OSError, ValueError) as error:
        raise unreadable(pretrained, error) from error
    return index


def refuse_no_folder(path: str) -> None:
    """Say that a folder is missing, where libraries would explain how names on the hub are written.

    Raises:
        OSError: The path is no name of a hub, and there is no such folder.
    """
    if not _HUB_NAME.fullmatch(path) and not (path and Path(path).is_dir()):
        raise NotADirectoryError("a path that is no folder here")


def unreadable(pretrained: str, reason: object) -> StoreError:
    """The error for a pipeline that cannot be opened."""
    return StoreError(
        f"the pipeline {pretrained} cannot be read",
        found=" ".join(str(reason).split())[:200],
        expected="a folder that DiffusionPipeline.save_pretrained wrote, or a name on the hub",
        fix="correct the path; a hub name needs a connection the first time",
    )
