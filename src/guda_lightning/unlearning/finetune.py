"""``Finetune``: train on the retain set alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from guda_lightning.diffusion import DiffusionModel
from guda_lightning.diffusion.module import Noised
from guda_lightning.unlearning.bound import BoundObjective, ObjectiveContext
from guda_lightning.unlearning.objective import Objective, Preserve


@dataclass(frozen=True, kw_only=True)
class Finetune(Objective):
    """No forget term: train on the retain set alone. The honest baseline.

    Distillation would leave it nothing to learn: the student begins as the full model.
    """

    name: ClassVar[str] = "finetune"
    forget_weight: float = field(default=0.0, init=False)
    preserve: Preserve = field(default="denoise", init=False)

    def bind(self, context: ObjectiveContext) -> BoundFinetune:
        """See ``Objective.bind``; every group can be forgotten so."""
        return BoundFinetune(self, context)


class BoundFinetune(BoundObjective):
    """``Finetune`` of one counterfactual."""

    def forget_term(self, noised: Noised, student: DiffusionModel, full: DiffusionModel) -> None:
        """Leave forget samples out."""
