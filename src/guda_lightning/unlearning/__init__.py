"""Unlearning: make the model that never saw a group."""

from guda_lightning.unlearning.anchor import Anchor
from guda_lightning.unlearning.guided import Guided
from guda_lightning.unlearning.module import UnlearnModule
from guda_lightning.unlearning.objectives import Finetune, NegGrad, Objective, ReTrack, ZeroTarget

__all__ = ["Anchor", "Finetune", "Guided", "NegGrad", "Objective", "ReTrack", "UnlearnModule", "ZeroTarget"]
