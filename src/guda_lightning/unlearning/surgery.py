"""``BoundSurgery``: objectives that look at the gradients of both losses before they are added."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from guda_lightning.diffusion import DiffusionModel
from guda_lightning.distributed.ranks import Ranks
from guda_lightning.unlearning.bound import BoundObjective, ObjectiveContext
from guda_lightning.unlearning.objective import Objective

# Float16 gradients of mean losses would be 0 under mixed precision; no ratio of them depends on it.
_SCALE = 2.0**12
SURGERY_PASSES = 8  # two backward passes more over two batches each, in forward passes of one batch


def loss_gradient(student: DiffusionModel, loss: Tensor, ranks: Ranks) -> Tensor:
    """The gradient of a loss as one vector, in arbitrary units that all losses share.

    Nothing is accumulated in ``.grad``, and the loss keeps its graph.

    Args:
        student: The model; only its trainable weights count.
        loss: A scalar with its graph.
        ranks: Who share the batch: all get the gradient of the mean of their losses.

    Returns:
        ``[weights]``, in the order of the network's parameters.
    """
    weights = trainable(student)
    found = torch.autograd.grad(loss * _SCALE, weights, retain_graph=True, allow_unused=True)
    parts = [
        torch.zeros_like(weight) if part is None else part
        for weight, part in zip(weights, found, strict=True)
    ]
    return ranks.mean(torch.cat([part.flatten() for part in parts]))


def trainable(student: DiffusionModel) -> Sequence[Tensor]:
    """The weights that are trained: those of an adapter, or all."""
    return [weight for weight in student.denoiser.parameters() if weight.requires_grad]


class BoundSurgery(BoundObjective):
    """An objective whose factor λ of the forget loss follows from the gradients of both losses of a step.

    What is minimised is then ``L_preserve + λ · L_forget`` with λ a number, so optimizers, DDP and gradient
    clipping need not know; it takes two more backward passes. Where gradients are accumulated over
    several batches, λ is that of each batch.

    Args:
        objective: The hyper-parameters.
        context: What the counterfactual is made from.

    Raises:
        ConfigError: Weights are spread over processes (FSDP2).
    """

    def __init__(self, objective: Objective, context: ObjectiveContext) -> None:
        super().__init__(objective, context)
        context.require_whole_weights(type(objective).__name__)

    @abstractmethod
    def factor(self, inner: Tensor, preserve_square: Tensor, forget_square: Tensor) -> Tensor:
        """The factor of the forget loss, a scalar.

        Args:
            inner: Inner product of the gradients of the preserve and of the forget loss.
            preserve_square: Squared norm of the first.
            forget_square: Squared norm of the second.
        """

    def forget_factor(self, student: DiffusionModel, preserve: Tensor, forget: Tensor) -> Tensor:
        """See ``BoundObjective.forget_factor``: by the whole batch, the same on all ranks."""
        if not preserve.requires_grad:
            return torch.zeros_like(forget)  # nothing is trained, as where a loss is only looked at
        ranks = self.context.ranks
        remember, erase = (loss_gradient(student, loss, ranks) for loss in (preserve, forget))
        inner, squares = remember @ erase, (remember @ remember, erase @ erase)
        return self.factor(inner, *squares).to(forget.dtype)
