"""A training loop of diffusers with accelerate, which also unlearns: the formulas without a trainer."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import DDPMScheduler, UNet2DModel
from my_pictures import denoising_loss, draw_pictures, make_unet, read_pictures  # you have your own
from torch import Tensor
from torch.utils.data import DataLoader

from guda_lightning import (
    CounterfactualAttributor,
    CounterfactualStore,
    DiffusionModule,
    FullModel,
    GroupDataModule,
    ScoreTable,
)
from guda_lightning.attribution import AttributionContext
from guda_lightning.counterfactuals import CounterfactualKey, CounterfactualRecord
from guda_lightning.data import ImageFolder, load_queries
from guda_lightning.functional.objectives import retain_posterior
from guda_lightning.functional.prediction import implied_noise
from guda_lightning.storage.files import sha256_json


def train(
    accelerator: Accelerator,
    unet: UNet2DModel,
    images: Tensor,
    loss_of: Callable[[torch.nn.Module, Tensor], Tensor],
    steps: int,
    lr: float,
) -> None:
    """The loop of ``train_unconditional.py``."""
    optimizer = torch.optim.AdamW(unet.parameters(), lr=lr)
    loader = DataLoader(images, 24, shuffle=True)
    model, optimizer, loader = accelerator.prepare(unet, optimizer, loader)
    for step in range(steps):
        if step % len(loader) == 0:
            batches = iter(loader)
        accelerator.backward(loss_of(model, next(batches)))
        optimizer.step()
        optimizer.zero_grad()


def retrack_loss(model: torch.nn.Module, scheduler: DDPMScheduler, forget: Tensor, retain: Tensor) -> Tensor:
    """ReTrack on forget samples: predict what a model of the retain set alone would predict."""
    alphas = scheduler.alphas_cumprod.to(forget.device)
    timesteps = torch.randint(1, len(alphas), (len(forget),), device=forget.device)
    gamma, sigma = alphas[timesteps].sqrt()[:, None], (1 - alphas[timesteps]).sqrt()[:, None]
    x0 = forget.flatten(1)
    x_t = gamma * x0 + sigma * torch.randn_like(x0)
    mean = retain_posterior(x_t, x0, gamma, sigma, retain.flatten(1).double()).mean
    target = implied_noise(x_t, mean, gamma, sigma).view_as(forget)
    return F.mse_loss(model(x_t.view_as(forget), timesteps, return_dict=False)[0], target)


def main(folder: Path, fit_steps: int = 300, unlearn_steps: int = 60) -> ScoreTable:
    pictures, store = folder / "pictures", CounterfactualStore(folder / "store")
    draw_pictures(pictures)
    accelerator, images = Accelerator(cpu=True), read_pictures(pictures)
    unet, scheduler = make_unet(), DDPMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2")
    train(accelerator, unet, images, lambda model, x: denoising_loss(model, scheduler, x), fit_steps, 2e-3)

    full = FullModel.of(DiffusionModule(accelerator.unwrap_model(unet), scheduler))
    data = GroupDataModule(ImageFolder(str(pictures)))
    hparams = {"objective": "my own ReTrack", "steps": unlearn_steps, "lr": 3e-4}
    for group in data.grouping.names:
        forget, retain = images[data.grouping.forget([group])], images[data.grouping.retain([group])]
        student, started = copy.deepcopy(unet), time.perf_counter()

        def loss_of(model: torch.nn.Module, kept: Tensor, f: Tensor = forget, r: Tensor = retain) -> Tensor:
            return denoising_loss(model, scheduler, kept) + retrack_loss(model, scheduler, f, r)

        train(accelerator, student, retain, loss_of, unlearn_steps, lr=3e-4)
        record = CounterfactualRecord.of(
            CounterfactualKey("retrack", (group,), 0, sha256_json(hparams)),
            hparams,
            full.provenance(data.grouping.hash, data.image_shape),
            members_hash=data.grouping.members_hash([group]),
            seconds=time.perf_counter() - started,
            steps=unlearn_steps,
            network_evaluations=unlearn_steps * (24 + len(forget)),
        )
        store.save(accelerator.unwrap_model(student).state_dict(), record)

    attributor = CounterfactualAttributor(store.root).fit(AttributionContext(full, data))
    return attributor.score(load_queries(pictures / "columns" / "0.png", data.image_shape))


if __name__ == "__main__":
    print(main(Path("example")).select(weighting="elbo").to_pandas())
