"""``NegGrad``: ascend the denoising loss on forget samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from guda_lightning.diffusion import DiffusionModel
from guda_lightning.diffusion.module import Noised
from guda_lightning.unlearning.bound import BoundObjective, ForgetTerm, ObjectiveContext
from guda_lightning.unlearning.objective import Objective


@dataclass(frozen=True, kw_only=True)
class NegGrad(Objective):
    """Ascend the denoising loss on forget samples.

    Args:
        forget_weight: λ, the factor of the ascent, >= 0: its sign is the objective's.
        preserve: The term on retain samples: ``denoise`` trains on the data, ``distill`` keeps the
            student's predictions at the full model's (one more forward pass a step).
    """

    name: ClassVar[str] = "neggrad"
    forget_weight: float = 0.03

    def bind(self, context: ObjectiveContext) -> BoundNegGrad:
        """See ``Objective.bind``; every group can be forgotten so."""
        return BoundNegGrad(self, context)


class BoundNegGrad(BoundObjective):
    """``NegGrad`` of one counterfactual."""

    def forget_term(self, noised: Noised, student: DiffusionModel, full: DiffusionModel) -> ForgetTerm:
        """Target: the true one, with a negative weight."""
        weight = -torch.ones(len(noised.x_t), device=noised.x_t.device)
        return ForgetTerm(noised.target(student.prediction), weight)
