"""``ZeroTarget``: output zero on forget samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from guda_lightning.diffusion import DiffusionModel
from guda_lightning.diffusion.module import Noised
from guda_lightning.unlearning.bound import BoundObjective, ForgetTerm, ObjectiveContext
from guda_lightning.unlearning.objective import Objective


@dataclass(frozen=True, kw_only=True)
class ZeroTarget(Objective):
    """Output zero on forget samples: no noise at all, for a network that predicts noise.

    What ReTrack without a log-sum-exp turns into in high dimensions, and so perhaps what the paper's
    numbers come from (docs/decisions.md).

    Args:
        forget_weight: λ, the factor of the forget term, >= 0.
        preserve: The term on retain samples: ``denoise`` trains on the data, ``distill`` keeps the
            student's predictions at the full model's (one more forward pass a step).
    """

    name: ClassVar[str] = "zero_target"
    forget_weight: float = 0.03

    def bind(self, context: ObjectiveContext) -> BoundZeroTarget:
        """See ``Objective.bind``; every group can be forgotten so."""
        return BoundZeroTarget(self, context)


class BoundZeroTarget(BoundObjective):
    """``ZeroTarget`` of one counterfactual."""

    def forget_term(self, noised: Noised, student: DiffusionModel, full: DiffusionModel) -> ForgetTerm:
        """Target: zero, whatever the network predicts (ε̂ = 0 would be infinite for a flow at s = 1)."""
        return ForgetTerm(torch.zeros_like(noised.x_t))
