"""Text embeddings of a CLIP, to tell how near two styles are."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from guda_lightning.diffusion import weights_hash
from guda_lightning.errors import MissingExtraError, StoreError
from guda_lightning.latent.encoders import quiet, refuse_no_folder

_BATCH = 256  # texts at a time


class ClipText:
    """The text tower of a CLIP, frozen.

    Args:
        path: Folder of a CLIP that transformers reads, or its name on the hub.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    @cached_property
    def hash(self) -> str:
        """Identity of its weights."""
        return weights_hash(self._parts[1].state_dict())

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Embeddings of unit length, ``[texts, dims]``."""
        tokenizer, model = self._parts
        found = []
        for start in range(0, len(texts), _BATCH):
            tokens = tokenizer(
                list(texts[start : start + _BATCH]), padding=True, truncation=True, return_tensors="pt"
            )
            with torch.no_grad():
                embeds = model(tokens.input_ids, attention_mask=tokens.attention_mask).text_embeds
            found.append(normalize(embeds, dim=-1))
        return torch.cat(found)

    @cached_property
    def _parts(self) -> tuple[Any, Any]:
        try:
            from transformers import AutoTokenizer, CLIPTextModelWithProjection
        except ModuleNotFoundError as error:
            raise MissingExtraError("transformers", "text") from error
        try:
            refuse_no_folder(self.path)
            with quiet():  # of a whole CLIP, the pictures' tower is left out
                tokenizer = AutoTokenizer.from_pretrained(self.path)
                model = CLIPTextModelWithProjection.from_pretrained(self.path)
        except (OSError, ValueError) as error:
            raise StoreError(
                f"the CLIP {self.path} cannot be read",
                found=" ".join(str(error).split())[:200],
                expected="a folder with tokenizer and weights of a CLIP, or a name on the hub",
                fix="set objective.init_args.clip, e.g. to openai/clip-vit-large-patch14",
            ) from error
        return tokenizer, model.eval().requires_grad_(False)
