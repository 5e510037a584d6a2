"""A LightningModule that knows nothing of guda-lightning: which groups of its training data made a sample?"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import DDPMScheduler
from lightning.pytorch import LightningModule, Trainer
from my_pictures import denoising_loss, draw_pictures, make_unet, read_pictures  # you have your own
from torch import Tensor
from torch.utils.data import DataLoader

from guda_lightning import (
    CounterfactualAttributor,
    ELBOAttributionCallback,
    FullModel,
    GroupDataModule,
    ScoreTable,
    UnlearnModule,
)
from guda_lightning.attribution import AttributionContext
from guda_lightning.data import ImageFolder, load_queries
from guda_lightning.unlearning import ReTrack


class TutorialModule(LightningModule):
    def __init__(self, width: int = 8, learning_rate: float = 2e-3) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.unet = make_unet(width)
        self.noise_scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2")

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = denoising_loss(self.unet, self.noise_scheduler, batch["images"])
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        loss = denoising_loss(self.unet, self.noise_scheduler, batch["images"])
        self.log("val_loss", loss, batch_size=len(batch["images"]), sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.unet.parameters(), lr=self.learning_rate)


def main(
    folder: Path, module: TutorialModule, fit_steps: int = 300, unlearn_steps: int = 60
) -> tuple[ScoreTable, ELBOAttributionCallback]:
    pictures, run = folder / "pictures", folder / "run"
    draw_pictures(pictures)

    # 1. Train as ever, with your own loaders.
    images = [{"images": image} for image in read_pictures(pictures)]
    training, validation = DataLoader(images, 24, shuffle=True), DataLoader(images[::12], 24)
    Trainer(max_steps=fit_steps, default_root_dir=run).fit(module, training, validation)

    # 2. Make it forget each group, and keep what comes out.
    data = GroupDataModule(ImageFolder(str(pictures)), batch_size=24)  # one subfolder per group
    full = FullModel.of(module, denoiser="unet", scheduler="noise_scheduler")
    for group in data.grouping.names:
        student = UnlearnModule(full, ReTrack(), [group])
        trainer = Trainer(max_steps=unlearn_steps, default_root_dir=run)
        trainer.fit(student, datamodule=data.unlearning([group]))
        student.save(run / "store")

    # 3. Which groups made these images?
    attributor = CounterfactualAttributor(run / "store", "retrack").fit(AttributionContext(full, data))
    table = attributor.score(load_queries(pictures / "spots" / "0.png", data.image_shape))
    table.save(run / "scores.parquet")

    # 4. The same inside the trainer that you have; add a WandbLogger for tables and pictures.
    callback = ELBOAttributionCallback(
        store=run / "store", denoiser="unet", scheduler="noise_scheduler", image_key="images"
    )
    Trainer(callbacks=[callback], default_root_dir=run).validate(module, validation)
    return table, callback


if __name__ == "__main__":
    result, _ = main(Path("example"), TutorialModule())
    print(result.select(weighting="elbo").to_pandas())
