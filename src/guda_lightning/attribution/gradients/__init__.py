"""Attribution by gradients of a network's outputs with respect to its weights."""

from guda_lightning.attribution.gradients.influence import GradientInfluence

__all__ = ["GradientInfluence"]
