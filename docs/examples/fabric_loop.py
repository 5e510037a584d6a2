"""A training loop of Lightning Fabric: which groups of its pictures made these?"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import DDPMScheduler
from lightning.fabric import Fabric
from lightning.pytorch import Trainer
from my_pictures import denoising_loss, draw_pictures, make_unet, read_pictures  # you have your own
from torch import Tensor
from torch.utils.data import DataLoader

from guda_lightning import (
    CounterfactualAttributor,
    DiffusionModule,
    FullModel,
    GroupDataModule,
    ScoreTable,
    UnlearnModule,
)
from guda_lightning.attribution import AttributionContext
from guda_lightning.data import ImageFolder, load_queries
from guda_lightning.unlearning import ReTrack


def train(
    fabric: Fabric, unet: torch.nn.Module, scheduler: DDPMScheduler, images: Tensor, steps: int
) -> None:
    """The loop, as it was before."""
    model, optimizer = fabric.setup(unet, torch.optim.AdamW(unet.parameters(), lr=2e-3))
    loader = fabric.setup_dataloaders(DataLoader(images, 24, shuffle=True))
    for step in range(steps):
        if step % len(loader) == 0:
            batches = iter(loader)
        loss = denoising_loss(model, scheduler, next(batches))
        fabric.backward(loss)
        optimizer.step()
        optimizer.zero_grad()


def main(folder: Path, fit_steps: int = 300, unlearn_steps: int = 60) -> ScoreTable:
    pictures, store = folder / "pictures", folder / "store"
    draw_pictures(pictures)
    fabric = Fabric(accelerator="cpu", devices=1)
    unet, scheduler = make_unet(), DDPMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2")
    train(fabric, unet, scheduler, read_pictures(pictures), fit_steps)

    # A loop has no module that says where its network and its noise scheduler are: this one holds them.
    full = FullModel.of(DiffusionModule(unet, scheduler))
    data = GroupDataModule(ImageFolder(str(pictures)), batch_size=24)
    for group in data.grouping.names:
        student = UnlearnModule(full, ReTrack(), [group])
        trainer = Trainer(max_steps=unlearn_steps, default_root_dir=folder)
        trainer.fit(student, datamodule=data.unlearning([group]))
        student.save(store)

    attributor = CounterfactualAttributor(store).fit(AttributionContext(full, data))
    return attributor.score(load_queries(pictures / "rows" / "0.png", data.image_shape))


if __name__ == "__main__":
    print(main(Path("example")).select(weighting="elbo").to_pandas())
