"""Unlearning: make the model that never saw a group."""

from guda_lightning.unlearning.anchor import Anchor
from guda_lightning.unlearning.finetune import Finetune
from guda_lightning.unlearning.guided import Guided
from guda_lightning.unlearning.module import UnlearnModule
from guda_lightning.unlearning.neggrad import NegGrad
from guda_lightning.unlearning.objective import (
    BoundObjective,
    ForgetTerm,
    Objective,
    ObjectiveContext,
    identified,
)
from guda_lightning.unlearning.retrack import ReTrack
from guda_lightning.unlearning.zero_target import ZeroTarget

__all__ = [
    "Anchor",
    "BoundObjective",
    "Finetune",
    "ForgetTerm",
    "Guided",
    "NegGrad",
    "Objective",
    "ObjectiveContext",
    "ReTrack",
    "UnlearnModule",
    "ZeroTarget",
    "identified",
]
