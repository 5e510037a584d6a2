"""Unlearning: make the model that never saw a group."""

from guda_lightning.unlearning.anchor import Anchor
from guda_lightning.unlearning.bound import BoundObjective, ForgetTerm, ObjectiveContext
from guda_lightning.unlearning.erasediff import EraseDiff
from guda_lightning.unlearning.esd import ESD
from guda_lightning.unlearning.finetune import Finetune
from guda_lightning.unlearning.guided import Guided
from guda_lightning.unlearning.module import UnlearnModule
from guda_lightning.unlearning.neggrad import NegGrad
from guda_lightning.unlearning.objective import Objective, identified
from guda_lightning.unlearning.retrack import ReTrack
from guda_lightning.unlearning.retrack_capped import ReTrackCapped
from guda_lightning.unlearning.salun import SalUn
from guda_lightning.unlearning.siss import SISS
from guda_lightning.unlearning.surgery import BoundSurgery
from guda_lightning.unlearning.zero_target import ZeroTarget

__all__ = [
    "ESD",
    "SISS",
    "Anchor",
    "BoundObjective",
    "BoundSurgery",
    "EraseDiff",
    "Finetune",
    "ForgetTerm",
    "Guided",
    "NegGrad",
    "Objective",
    "ObjectiveContext",
    "ReTrack",
    "ReTrackCapped",
    "SalUn",
    "UnlearnModule",
    "ZeroTarget",
    "identified",
]
