"""Trains, retrains and unlearns in one process or in several; a test runs it as a script."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from diffusers import DDPMScheduler

sys.path.insert(0, str(Path(__file__).parent.parent))
from guda_lightning import DiffusionModule, GudaTrainer
from guda_lightning.unlearning import Finetune
from toys import shades, tiny_unet

BATCH_SIZE, STEPS = 8, 5  # of each process


def build() -> DiffusionModule:
    return DiffusionModule(tiny_unet(), DDPMScheduler(20))


def run(folder: Path, processes: int) -> None:
    torch.set_num_threads(1)
    data = shades(batch_size=BATCH_SIZE)
    trainer = GudaTrainer(
        default_root_dir=folder,
        accelerator="cpu",
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        max_steps=STEPS,
        max_epochs=-1,
        limit_val_batches=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit_full(build(), data)
    trainer.retrain(build, data, ["dark"], seeds=[0, 1])
    trainer.unlearn(build(), data, Finetune(), steps=STEPS, groups=["dark"])


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(sys.argv[2]))
