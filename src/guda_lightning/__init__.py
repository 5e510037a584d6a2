"""Which groups of my training data made this generated sample?"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from guda_lightning.version import __version__

_HOMES = {
    "NDA": "attribution",
    "AttributionContext": "attribution",
    "CoalitionAttributor": "attribution",
    "CounterfactualAttributor": "attribution",
    "CounterfactualStore": "counterfactuals",
    "DiffusionModule": "diffusion",
    "FSDP2Strategy": "distributed",
    "ELBOAttributionCallback": "callbacks",
    "FullModel": "diffusion",
    "GroupDataModule": "data",
    "Grouping": "data",
    "GuidanceAttributor": "attribution",
    "GudaTrainer": "stages.trainer",
    "LatentDataModule": "latent",
    "LatentDiffusionModule": "latent",
    "PixelSimilarity": "attribution",
    "Scoring": "scores",
    "RacingAttributor": "attribution",
    "ScoreTable": "scores",
    "Run": "stages.opened",
    "UnlearnModule": "unlearning",
    "open_run": "stages.opened",
}
__all__ = [
    "NDA",
    "AttributionContext",
    "CoalitionAttributor",
    "CounterfactualAttributor",
    "CounterfactualStore",
    "DiffusionModule",
    "ELBOAttributionCallback",
    "FSDP2Strategy",
    "FullModel",
    "GroupDataModule",
    "Grouping",
    "GudaTrainer",
    "GuidanceAttributor",
    "LatentDataModule",
    "LatentDiffusionModule",
    "PixelSimilarity",
    "RacingAttributor",
    "Run",
    "ScoreTable",
    "Scoring",
    "UnlearnModule",
    "__version__",
    "open_run",
]

if TYPE_CHECKING:
    from guda_lightning.attribution import (
        NDA,
        AttributionContext,
        CoalitionAttributor,
        CounterfactualAttributor,
        GuidanceAttributor,
        PixelSimilarity,
        RacingAttributor,
    )
    from guda_lightning.callbacks import ELBOAttributionCallback
    from guda_lightning.counterfactuals import CounterfactualStore
    from guda_lightning.data import GroupDataModule, Grouping
    from guda_lightning.diffusion import DiffusionModule, FullModel
    from guda_lightning.distributed import FSDP2Strategy
    from guda_lightning.latent import LatentDataModule, LatentDiffusionModule
    from guda_lightning.scores import ScoreTable, Scoring
    from guda_lightning.stages.opened import Run, open_run
    from guda_lightning.stages.trainer import GudaTrainer
    from guda_lightning.unlearning import UnlearnModule


def __getattr__(name: str) -> Any:
    # `guda --version` must not import torch.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
