"""A transformer trained by flow matching, without a trainer: which groups of its pictures made these?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DiTTransformer2DModel, FlowMatchEulerDiscreteScheduler
from my_pictures import SIZE, draw_pictures, read_pictures  # you have your own
from torch import Tensor, nn
from torch.utils.data import DataLoader

from guda_lightning import (
    DiffusionModule,
    FullModel,
    GroupDataModule,
    GudaTrainer,
    GuidanceAttributor,
    ScoreTable,
)
from guda_lightning.attribution import AttributionContext
from guda_lightning.data import ImageFolder, load_queries
from guda_lightning.posteriors import ClassifierPlan


class Unconditional(nn.Module):
    """A DiT of one class, called as a denoiser."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = DiTTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=1,
            num_layers=2,
            norm_num_groups=1,
            sample_size=SIZE,
            patch_size=2,
            num_embeds_ada_norm=1,
        )
        self.config = self.transformer.config  # says the size of the pictures

    def forward(self, x_t: Tensor, timesteps: Tensor) -> Tensor:
        labels = torch.zeros(len(x_t), dtype=torch.int64, device=x_t.device)
        return self.transformer(x_t, timesteps, class_labels=labels).sample


def train(network: nn.Module, scheduler: Any, images: Tensor, steps: int) -> None:
    """The loop, as it was before: the velocity from clean picture to noise."""
    optimizer, loader = torch.optim.AdamW(network.parameters(), lr=2e-3), DataLoader(images, 24, shuffle=True)
    for step in range(steps):
        if step % len(loader) == 0:
            batches = iter(loader)
        clean = next(batches)
        noise, level = torch.randn_like(clean), torch.randint(1000, (len(clean),))
        sigma = scheduler.sigmas[level].view(-1, 1, 1, 1)
        velocity = network((1 - sigma) * clean + sigma * noise, scheduler.timesteps[level])
        F.mse_loss(velocity, noise - clean).backward()
        optimizer.step()
        optimizer.zero_grad()


def main(folder: Path, fit_steps: int = 300, guide_steps: int = 200) -> ScoreTable:
    pictures, weights = folder / "pictures", folder / "transformer.pt"
    draw_pictures(pictures)
    network, scheduler = Unconditional(), FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000)
    train(network, scheduler, read_pictures(pictures), fit_steps)
    torch.save(network.state_dict(), weights)

    # One posterior of the groups, from which every counterfactual follows without unlearning.
    holder = DiffusionModule(network, scheduler)  # a loop has no module that holds both
    data = GroupDataModule(ImageFolder(str(pictures)))
    trainer = GudaTrainer(default_root_dir=folder / "run", accelerator="cpu", logger=False)
    trainer.guide(holder, data, classifier=ClassifierPlan(steps=guide_steps, batch_size=64), full=weights)

    context = AttributionContext(FullModel.of(holder), data, store=folder / "run" / "store")
    queries = load_queries(pictures / "spots" / "0.png", data.image_shape)
    return GuidanceAttributor().fit(context).score(queries)


if __name__ == "__main__":
    print(main(Path("example")).select(weighting="elbo").to_pandas())
