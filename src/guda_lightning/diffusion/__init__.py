"""Diffusion models in Lightning: one calling convention, training, saving, loading, sampling."""

from guda_lightning.diffusion.calling import CallAs
from guda_lightning.diffusion.checkpoints import load_weights
from guda_lightning.diffusion.full import FullModel, refuse_nonfinite
from guda_lightning.diffusion.model import DiffusionModel, diffusion_model
from guda_lightning.diffusion.module import DiffusionModule, noised, seed_step
from guda_lightning.diffusion.redrawing import redraw
from guda_lightning.diffusion.sampling import sample, sampler
from guda_lightning.diffusion.saved import open_full, open_schedule, save_full
from guda_lightning.diffusion.schedules import WarmupCosine
from guda_lightning.diffusion.weights import evaluating, weights_hash
from guda_lightning.distributed.sharding import shard

__all__ = [
    "CallAs",
    "DiffusionModel",
    "DiffusionModule",
    "FullModel",
    "WarmupCosine",
    "diffusion_model",
    "evaluating",
    "load_weights",
    "noised",
    "open_full",
    "open_schedule",
    "redraw",
    "refuse_nonfinite",
    "sample",
    "sampler",
    "save_full",
    "seed_step",
    "shard",
    "weights_hash",
]
