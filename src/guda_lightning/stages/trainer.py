"""``GudaTrainer``: a Lightning trainer with the stages of an attribution."""

from __future__ import annotations

from guda_lightning.stages.attribute import attribute as _attribute
from guda_lightning.stages.base import StageTrainer
from guda_lightning.stages.ensemble import ensemble as _ensemble
from guda_lightning.stages.fit import fit_full as _fit_full
from guda_lightning.stages.fit import validate_full as _validate_full
from guda_lightning.stages.guide import guide as _guide
from guda_lightning.stages.placebo import placebo as _placebo
from guda_lightning.stages.retrain import retrain as _retrain
from guda_lightning.stages.sample import sample as _sample
from guda_lightning.stages.set_property import set_property as _set_property
from guda_lightning.stages.unlearn import unlearn as _unlearn


class GudaTrainer(StageTrainer):
    """A stock ``Trainer`` plus one method for each stage; ``default_root_dir`` is the run folder."""

    # For Python; the command line calls the functions themselves.
    fit_full = _fit_full
    validate_full = _validate_full
    unlearn = _unlearn
    guide = _guide
    attribute = _attribute
    placebo = _placebo
    retrain = _retrain
    ensemble = _ensemble
    sample = _sample
    set_property = _set_property
