"""Which style stands in for a forgotten one: the draw of GUDA-C's anchors."""

from __future__ import annotations

import torch
from torch import Tensor


def style_probabilities(words: Tensor, prototypes: Tensor, beta: float, eta: float) -> Tensor:
    """``(1 − η) softmax_s(β cos(words, prototype_s)) + η / S`` (GUDA, weighted style sampling).

    Args:
        words: ``[batch, dims]`` embeddings of the style words of the prompts to forget, of unit length.
        prototypes: ``[S, dims]`` of the retain styles, as ``style_prototype`` gives them.
        beta: Inverse temperature, >= 0.
        eta: Share of the uniform draw, in [0, 1].

    Returns:
        ``[batch, S]``, rows that sum to 1.
    """
    cosines = torch.nn.functional.cosine_similarity(words[:, None], prototypes[None], dim=-1)
    return (1 - eta) * torch.softmax(beta * cosines, dim=1) + eta / len(prototypes)


def style_prototype(descriptors: Tensor) -> Tensor:
    """The mean of a style's descriptor embeddings (GUDA, weighted style sampling).

    Args:
        descriptors: ``[descriptors, dims]`` of unit length.

    Returns:
        ``[dims]``.
    """
    return descriptors.mean(dim=0)
