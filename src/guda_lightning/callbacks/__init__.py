"""Callbacks for any Lightning trainer."""

from guda_lightning.callbacks.elbo_attribution import ELBOAttributionCallback
from guda_lightning.callbacks.resume import ResumeCheckpoint

__all__ = ["ELBOAttributionCallback", "ResumeCheckpoint"]
