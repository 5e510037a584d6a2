"""A LightningModule that knows nothing of guda-lightning: which groups of its training data made a sample?"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DModel
from lightning.pytorch import LightningModule, Trainer
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
from guda_lightning.data import Digits, load_queries
from guda_lightning.unlearning import ReTrack


class TutorialModule(LightningModule):
    """The training loop of the diffusers tutorial, as it stands in many projects."""

    def __init__(self, width: int = 32, learning_rate: float = 2e-3) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.unet = UNet2DModel(
            sample_size=8,
            in_channels=1,
            out_channels=1,
            layers_per_block=1,
            block_out_channels=(width, 2 * width),
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            norm_num_groups=8,
        )
        self.noise_scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2")

    def _loss(self, batch: dict[str, Tensor]) -> Tensor:
        clean_images = batch["images"]
        noise = torch.randn_like(clean_images)
        timesteps = torch.randint(
            0,
            self.noise_scheduler.config.num_train_timesteps,
            (clean_images.shape[0],),
            device=clean_images.device,
        )
        noisy_images = self.noise_scheduler.add_noise(clean_images, noise, timesteps)
        noise_pred = self.unet(noisy_images, timesteps, return_dict=False)[0]
        return F.mse_loss(noise_pred, noise)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = self._loss(batch)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.log("val_loss", self._loss(batch), batch_size=len(batch["images"]), sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.unet.parameters(), lr=self.learning_rate)


def main(run: Path, queries: Path, module: TutorialModule, fit_steps: int, unlearn_steps: int) -> ScoreTable:
    # 1. Train as ever, with your own loaders.
    data = GroupDataModule(Digits())  # or ImageFolder("images"): one subfolder per group
    images = [{"images": image} for image in data.images / 127.5 - 1]
    training, validation = DataLoader(images, 64, shuffle=True), DataLoader(images[::30], 64)
    Trainer(max_steps=fit_steps, default_root_dir=run).fit(module, training, validation)

    # 2. Make it forget each group, and keep what comes out.
    full = FullModel.of(module, denoiser="unet", scheduler="noise_scheduler")
    for group in data.grouping.names:
        student = UnlearnModule(full, ReTrack(), [group])
        Trainer(max_steps=unlearn_steps, default_root_dir=run).fit(
            student, datamodule=data.unlearning([group])
        )
        student.save(run / "store")

    # 3. Which groups made these images?
    attributor = CounterfactualAttributor(run / "store", "retrack").fit(AttributionContext(full, data))
    table = attributor.score(load_queries(queries, data.image_shape))
    table.save(run / "scores.parquet")

    # 4. The same inside the trainer that you have; add a WandbLogger for tables and pictures.
    callback = ELBOAttributionCallback(
        store=run / "store", denoiser="unet", scheduler="noise_scheduler", image_key="images"
    )
    Trainer(callbacks=[callback], default_root_dir=run).validate(module, validation)
    return table


if __name__ == "__main__":
    result = main(Path("runs/mine"), Path("queries"), TutorialModule(), fit_steps=1500, unlearn_steps=60)
    print(result.select(weighting="elbo").to_pandas())
