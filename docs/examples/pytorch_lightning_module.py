"""A module and a trainer of pytorch_lightning: its groups are watched in its own validation."""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl
import torch
from diffusers import DDPMScheduler
from my_pictures import denoising_loss, draw_pictures, make_unet, read_pictures  # you have your own
from torch import Tensor
from torch.utils.data import DataLoader

from guda_lightning import DiffusionModule, ELBOAttributionCallback, GroupDataModule, GudaTrainer
from guda_lightning.data import ImageFolder
from guda_lightning.posteriors import ClassifierPlan


class Module(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.unet = make_unet()
        self.noise_scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2")

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return denoising_loss(self.unet, self.noise_scheduler, batch)

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val_loss", denoising_loss(self.unet, self.noise_scheduler, batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


def main(folder: Path, fit_steps: int = 300, guide_steps: int = 200) -> ELBOAttributionCallback:
    pictures, run, weights = folder / "pictures", folder / "run", folder / "unet.pt"
    draw_pictures(pictures)
    module, images = Module(), read_pictures(pictures)
    trainer = pl.Trainer(max_steps=fit_steps, accelerator="cpu", default_root_dir=folder)
    trainer.fit(module, DataLoader(images, 24, shuffle=True))

    # Trainers here are of lightning, which takes no module of pytorch_lightning: hand over its network.
    torch.save(module.unet.state_dict(), weights)
    holder = DiffusionModule(module.unet, module.noise_scheduler)
    guda = GudaTrainer(default_root_dir=run, accelerator="cpu", logger=False)
    data = GroupDataModule(ImageFolder(str(pictures)))
    plan = ClassifierPlan(steps=guide_steps, batch_size=64)
    guda.guide(holder, data, "classifier", plan, full=weights)

    callback = ELBOAttributionCallback(
        store=run / "store", operator="classifier", denoiser="unet", scheduler="noise_scheduler"
    )
    watching = pl.Trainer(callbacks=[callback], accelerator="cpu", default_root_dir=folder)
    watching.validate(module, DataLoader(images[::12], 24))
    return callback


if __name__ == "__main__":
    print(main(Path("example")).table.to_pandas())
