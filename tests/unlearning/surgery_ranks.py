"""Trainings by EraseDiff and SISS, in one process or in one of two."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler
from safetensors.torch import save_file

from guda_lightning.diffusion import DiffusionModule, FullModel
from guda_lightning.unlearning import SISS, EraseDiff, SalUn, UnlearnModule, ZeroTarget
from toys import quiet_trainer, shades, tiny_unet

BATCH = 16  # of all processes together
OBJECTIVES = {
    "erasediff": EraseDiff(eta=0.5),
    "siss": SISS(strength=0.5),
    "salun": SalUn(objective=ZeroTarget(forget_weight=1.0), share=0.2),
}


def trained(folder: Path, processes: int) -> None:
    """Two steps of each objective; SGD, because Adam would blow rounding errors up."""

    def sgd(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=0.05, momentum=0.5)

    shared = {"devices": processes, "strategy": "auto" if processes == 1 else "ddp"}
    for name, objective in OBJECTIVES.items():
        full = FullModel.of(DiffusionModule(tiny_unet(), DDPMScheduler(20)))
        student = UnlearnModule(full, objective, ["bright"], sgd)
        trainer = quiet_trainer(folder, max_steps=2, limit_val_batches=0, gradient_clip_val=1.0, **shared)
        trainer.fit(student, shades(batch_size=BATCH // processes).unlearning(["bright"]))
        if os.environ.get("LOCAL_RANK", "0") == "0":
            factor = trainer.callback_metrics.get("unlearn/factor", torch.zeros(()))
            weights = {key: value.contiguous() for key, value in student.denoiser.state_dict().items()}
            save_file({**weights, "factor": factor}, folder / f"{name}-{processes}.safetensors")
