"""Small real parts that tests share: a network, images in three groups, exact denoisers, a trainer."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import lightning.pytorch
import numpy as np
import pyarrow as pa
import torch
from diffusers import DDPMScheduler, UNet2DModel
from lightning.pytorch import Trainer
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from guda_lightning.counterfactuals import CounterfactualStore
from guda_lightning.data import GroupDataModule, ImageTable, Source
from guda_lightning.diffusion import DiffusionModule, FullModel, weights_hash
from guda_lightning.functional.schedule import NoiseSchedule
from guda_lightning.posteriors import (
    ClassifierPlan,
    GroupClassifier,
    PosteriorKey,
    PosteriorRecord,
    PosteriorStore,
    network_hparams,
    weights_of,
)
from guda_lightning.storage.files import canonical_json, sha256_file, sha256_json
from guda_lightning.storage.sealed import read_sealed, sealed_parquet, write_json
from guda_lightning.storage.seals import SEALS, folder_seal
from guda_lightning.types import Queries

GROUPS = ("dark", "bright", "noisy")
COLOURED_SIZE = 16
COLOURS = {"red": ("warm", "hot"), "green": ("leafy", "fresh"), "blue": ("cold", "wet")}


def message(problem: str, found: object, expected: object, fix: str) -> str:
    """A pattern that matches the whole text of an error."""
    return "^" + re.escape(f"{problem}\n  found:    {found}\n  expected: {expected}\n  fix:      {fix}") + "$"


def write_parquet_by_hand(path: Path, table: pa.Table) -> None:
    """Write what no stage would, with the seal of a whole file."""
    with sealed_parquet(path, table.schema) as writer:
        writer.write_table(table)


def edit_json(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Change a sealed JSON file, in a sealed folder or by itself, as if a stage had written it so."""
    value = read_sealed(path, "")
    write_json(path, change(value))
    if (path.parent / SEALS).is_file():
        reseal(path.parent)


def as_earlier(full: Path, **changes: Any) -> None:
    """Make of RUN/full what an earlier version wrote: without seals, under the hash of its weights alone."""
    (full / SEALS).unlink()
    record = read_sealed(full / "record.json", "") | changes
    record["full_hash"] = weights_hash(load_file(full / "unet" / "diffusion_pytorch_model.safetensors"))
    (full / "record.json").write_text(canonical_json(record))


def reseal(folder: Path) -> None:
    """Seal a folder as it is now."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != SEALS]
    hashes = {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}
    (folder / SEALS).write_bytes(folder_seal(hashes))


def assert_same_output(found: Tensor, expected: Tensor) -> None:
    """Outputs, of the size of one, of two networks with the same weights: equal but for the order of sums.

    Kernels, and with them that order, differ with the processor, memory layout and ``requires_grad``.
    """
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def tiny_unet(seed: int = 0, **config: Any) -> UNet2DModel:
    """A UNet for 8 x 8 gray images; the same seed gives the same weights."""
    defaults: dict[str, Any] = {
        "sample_size": 8,
        "in_channels": 1,
        "out_channels": 1,
        "layers_per_block": 1,
        "block_out_channels": (8,),
        "down_block_types": ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",),
        "norm_num_groups": 4,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return UNet2DModel(**{**defaults, **config})


class TimeFirst(nn.Module):
    """A `tiny_unet` that is called otherwise than a denoiser."""

    def __init__(self) -> None:
        super().__init__()
        self.unet = tiny_unet()

    def forward(self, t: Tensor, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        return {"pred": self.unet(x, t).sample, "input": x}


def tiny_full(seed: int = 0, timesteps: int = 100) -> FullModel:
    """A full model of a `tiny_unet`."""
    return FullModel.of(DiffusionModule(tiny_unet(seed), DDPMScheduler(num_train_timesteps=timesteps)))


class Shades(Source):
    """Gray 8 x 8 images, the same number in each of the three groups."""

    def __init__(self, per_group: int = 16) -> None:
        self.per_group = per_group

    def load(self) -> ImageTable:
        rng = np.random.default_rng(0)
        shape = (self.per_group, 8, 8)
        pixels = np.concatenate(
            [rng.integers(0, 60, shape), rng.integers(195, 256, shape), rng.integers(0, 256, shape)]
        ).astype(np.uint8)
        return ImageTable(
            ids=tuple(str(index) for index in range(len(pixels))),
            read=lambda index: Image.fromarray(pixels[index]),
            labels=tuple(name for name in GROUPS for _ in range(self.per_group)),
            label_names=GROUPS,
        )


def shades(per_group: int = 16, batch_size: int = 8, **arguments: Any) -> GroupDataModule:
    return GroupDataModule(Shades(per_group), batch_size=batch_size, **arguments)


def gray_queries(*ids: str) -> Queries:
    """Queries of random pixels, the same in every process."""
    return Queries(ids, torch.rand(len(ids), 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1)


def save_guidance(folder: Path, full: FullModel, data: GroupDataModule) -> CounterfactualStore:
    """A store that holds an untrained classifier of the data's groups, and guidance by it alone."""
    plan = ClassifierPlan(width=8, features=8)
    module = GroupClassifier(plan, data, full.model)
    module.kept.head.weight.data *= 20  # opinions, though untrained
    store, hparams = PosteriorStore(folder), network_hparams(plan, data.image_shape)

    def record(kind: str, **own: Any) -> PosteriorRecord:
        key = PosteriorKey(kind, data.grouping.names, 0, sha256_json(hparams))
        made_from, spent = full.provenance(data.grouping.hash), {"seconds": 1.0, "steps": 1}
        return PosteriorRecord.of(key, hparams, made_from, **spent, network_evaluations=1, **own)

    store.save(weights_of(module), record("classifier"))
    (made,) = store.records()
    member = {"name": made.key.folder_name, "hash": made.weights_hash}
    levels = [{"first": 0, "last": len(full.model.schedule) - 1, "weights": [1.0]}]
    store.save({}, record("guidance", levels=levels, members=[member]))
    return CounterfactualStore(folder)


def quiet_trainer(folder: Path, package: ModuleType = lightning.pytorch, **arguments: Any) -> Trainer:
    """A trainer on the CPU, of either of Lightning's packages, that writes and prints nothing of its own."""
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "default_root_dir": folder,
    }
    trainer: Trainer = package.Trainer(**{**defaults, **arguments})
    return trainer


class GaussianDenoiser(nn.Module):
    """The optimal noise prediction where the clean data are ``N(mean, spread² I)``."""

    def __init__(self, schedule: NoiseSchedule, mean: Tensor, spread: float) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("gamma", schedule.gamma)
        self.register_buffer("sigma", schedule.sigma)
        self.spread = spread

    def forward(self, x_t: Tensor, timesteps: Tensor) -> Tensor:
        shape = (-1,) + (1,) * (x_t.ndim - 1)
        gamma, sigma = self.gamma[timesteps].view(shape), self.sigma[timesteps].view(shape)
        variance = gamma**2 * self.spread**2 + sigma**2
        return (sigma * (x_t - gamma * self.mean) / variance).to(x_t.dtype)


def posterior_noise(x_t: Tensor, gamma: Tensor, sigma: Tensor, atoms: Tensor) -> Tensor:
    """E[ε | x_t] where the clean data are the atoms: ``−σ ∇ log q_t(x_t)``, by automatic differentiation.

    Args:
        x_t: ``[batch, dims]``.
        gamma: ``[batch, 1]``.
        sigma: ``[batch, 1]``.
        atoms: ``[atoms, dims]``.
    """
    x, gamma, sigma, atoms = (value.detach().double() for value in (x_t, gamma, sigma, atoms))
    with torch.enable_grad():
        x.requires_grad_(True)
        squared = (x[:, None] - gamma[:, None] * atoms[None]).square().sum(dim=2)
        log_density = torch.logsumexp(-squared / (2 * sigma**2), dim=1).sum()
        (gradient,) = torch.autograd.grad(log_density, x)
    return -sigma * gradient


@dataclass(frozen=True)
class Coloured(Source):
    """Noise in one channel: picture i of content i % 4, in three colours."""

    count: int = 6

    def load(self) -> ImageTable:
        base = np.random.default_rng(0).integers(0, 255, (self.count, COLOURED_SIZE, COLOURED_SIZE), np.uint8)
        samples = [(number, colour) for number in range(self.count) for colour in COLOURS]

        def read(index: int) -> Image.Image:
            number, colour = samples[index]
            pixels = np.zeros((COLOURED_SIZE, COLOURED_SIZE, 3), np.uint8)
            pixels[..., list(COLOURS).index(colour)] = base[number]
            return Image.fromarray(pixels)

        return ImageTable(
            tuple(f"{number}/{colour}" for number, colour in samples),
            read,
            tuple(colour for _, colour in samples),
            tuple(COLOURS),
            tuple(
                f"A depiction of {number % 4}, artistic style featuring {', '.join(COLOURS[colour])}"
                for number, colour in samples
            ),
        )
