"""An objective of somebody else: all that a new one takes, but for its YAML (constant.yaml)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from guda_lightning.diffusion import DiffusionModel
from guda_lightning.diffusion.module import Noised
from guda_lightning.unlearning import BoundObjective, ForgetTerm, Objective, ObjectiveContext


@dataclass(frozen=True, kw_only=True)
class Constant(Objective):
    """Output the same number everywhere on forget samples.

    Args:
        forget_weight: The factor of the forget term.
        preserve: The term on retain samples.
        value: The number to output.
    """

    name: ClassVar[str] = "constant"
    value: float = 0.0

    def bind(self, context: ObjectiveContext) -> BoundConstant:
        return BoundConstant(self, context)


class BoundConstant(BoundObjective):
    objective: Constant

    def forget_term(self, noised: Noised, student: DiffusionModel, full: DiffusionModel) -> ForgetTerm:
        return ForgetTerm(torch.full_like(noised.x_t, self.objective.value))


class Lazy(Constant):
    """Its class alone is new: no field, no name, no code."""
