"""Validates with ``ELBOAttributionCallback`` in one process or in several; a test runs it as a script."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).parent.parent))
from guda_lightning import DiffusionModule, ELBOAttributionCallback, FullModel, Scoring, UnlearnModule
from guda_lightning.unlearning import ReTrack
from toys import quiet_trainer, shades, tiny_unet

SCORING = Scoring(strata=4, draws=2)
QUERIES = 7  # not a multiple of two


class Foreign(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.unet = tiny_unet()
        self.noise_scheduler = DDPMScheduler(20)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass


def data() -> Any:
    return shades(probe_per_group=3, batch_size=4)


def student() -> UnlearnModule:
    """One that differs from its full model, the same in every process."""
    full = FullModel.of(DiffusionModule(tiny_unet(), DDPMScheduler(20)))
    module = UnlearnModule(full, ReTrack(), ["dark"])
    module.denoiser.load_state_dict(tiny_unet(seed=1).state_dict())
    return module


def run(folder: Path, store: Path, processes: int) -> None:
    torch.set_num_threads(1)
    images = torch.rand(QUERIES, 1, 8, 8, generator=torch.Generator().manual_seed(3)) * 2 - 1
    loader = DataLoader([{"images": image} for image in images], batch_size=2)
    paths: dict[str, Any] = {
        "store": store,
        "denoiser": "unet",
        "scheduler": "noise_scheduler",
        "image_key": "images",
    }
    for name, callback, module, what in (
        ("store", ELBOAttributionCallback(**paths, scoring=SCORING), Foreign(), {"dataloaders": loader}),
        (
            "few",
            ELBOAttributionCallback(**paths, scoring=SCORING, max_queries=3),
            Foreign(),
            {"dataloaders": loader},
        ),
        (
            "fixed",
            ELBOAttributionCallback(**paths, scoring=SCORING, queries=folder / "query.png"),
            Foreign(),
            {"dataloaders": loader},
        ),
        (
            "student",
            ELBOAttributionCallback(scoring=SCORING),
            student(),
            {"datamodule": data().unlearning(["dark"])},
        ),
    ):
        trainer = quiet_trainer(
            folder,
            callbacks=[callback],
            devices=processes,
            strategy="ddp" if processes > 1 else "auto",
            logger=CSVLogger(folder, name=name, version=""),
        )
        trainer.validate(module, verbose=False, **what)  # type: ignore[arg-type]
        assert callback.table is not None
        callback.table.save(folder / f"{name}-{trainer.global_rank}.parquet")


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
