"""``GudaTrainer``: a Lightning trainer with the stages of an attribution."""

from __future__ import annotations

from guda_lightning.stages.fit import FitStage
from guda_lightning.stages.placebo import PlaceboStage
from guda_lightning.stages.retrain import RetrainStage
from guda_lightning.stages.sample import SampleStage


class GudaTrainer(FitStage, RetrainStage, SampleStage, PlaceboStage):
    """A stock ``Trainer`` plus one method for each stage; ``default_root_dir`` is the run folder."""
