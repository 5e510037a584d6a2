"""What ReTrack's forget target costs, as a share of the training step that uses it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DModel

from benchmarks.stages import Asked
from benchmarks.tables import write_table
from guda_lightning.data.grouping import Grouping
from guda_lightning.diffusion import DiffusionModel
from guda_lightning.diffusion.module import noised
from guda_lightning.diffusion.schedulers import noise_schedule
from guda_lightning.functional.schedule import NoiseSchedule
from guda_lightning.storage.provenance import Provenance
from guda_lightning.unlearning import ObjectiveContext, ReTrack

# The UNets of configs/digits.yaml and configs/cifar10.yaml, their batches and retain sets.
SETTINGS = {
    "digits, D = 64": {
        "unet": {
            "sample_size": 8, "in_channels": 1, "out_channels": 1, "layers_per_block": 1,
            "block_out_channels": (32, 64), "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "UpBlock2D"), "norm_num_groups": 8, "attention_head_dim": 64,
        },
        "shape": (1, 8, 8), "batch": 64, "retain": 1619, "timed": 64,
    },
    "CIFAR-10, D = 3072": {
        "unet": {
            "sample_size": 32, "layers_per_block": 3, "block_out_channels": (128, 256, 256, 256),
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"), "dropout": 0.3,
        },
        "shape": (3, 32, 32), "batch": 128, "retain": 90000, "timed": 4,
    },
}  # fmt: skip


@dataclass(frozen=True)
class TwoGroups:
    """Two groups of images, of which the first is to be forgotten: what an objective is bound to.

    Attributes:
        forget: ``[samples, ...]``.
        retain: ``[samples, ...]``.
    """

    forget: torch.Tensor
    retain: torch.Tensor
    groups: tuple[str, ...] = ("forget",)

    @property
    def grouping(self) -> Grouping:
        """Both groups."""
        names = ["forget"] * len(self.forget) + ["retain"] * len(self.retain)
        return Grouping.from_labels(names, ("forget", "retain"))

    def forget_images(self) -> torch.Tensor:
        """``[samples, ...]``, the first group."""
        return self.forget

    def retain_images(self) -> torch.Tensor:
        """``[samples, ...]``, the other."""
        return self.retain

    def context(self, schedule: NoiseSchedule, device: str = "cpu") -> ObjectiveContext:
        """What an objective is bound to, with made-up hashes."""
        return ObjectiveContext(self, schedule, Provenance("full", schedule.hash), torch.device(device))


def run(asked: Asked) -> None:
    """Measure both settings, with 10 neighbours and exact."""
    notes = (
        "The CIFAR-10 step was timed on 4 + 4 images and multiplied by 32. Retain sets count mirrored images."
    )
    shown = SETTINGS
    if asked.size.timed is not None:
        name, setting = next(iter(SETTINGS.items()))
        shown = {name: {**setting, "timed": asked.size.timed}}
    rows = [row for name, setting in shown.items() for row in _measure(name, **setting)]
    write_table(asked.docs, "forget-target", "make benchmark", rows, notes)


def _measure(
    name: str, unet: dict[str, Any], shape: tuple[int, int, int], batch: int, retain: int, timed: int
) -> list[dict[str, object]]:
    scheduler = DDPMScheduler(num_train_timesteps=4000, beta_schedule="squaredcos_cap_v2")
    model = DiffusionModel(UNet2DModel(**unet), noise_schedule(scheduler), "epsilon")
    images = torch.rand(retain, *shape) * 2 - 1
    x0 = torch.rand(batch, *shape) * 2 - 1
    # An image costs the large network as much in a small batch as in a large one.
    step = _seconds(lambda: _step(model, torch.rand(2 * timed, *shape))) * batch / timed
    rows: list[dict[str, object]] = []
    for neighbours in (10, None):
        bound = ReTrack(neighbours=neighbours).bind(TwoGroups(x0, images).context(model.schedule))
        with torch.no_grad():
            target = _seconds(partial(bound.forget_term, noised(x0, None, model.schedule), model, model))
        rows.append(
            {
                "setting": name,
                "neighbours": neighbours or f"all {retain}",
                "step, s": f"{step:.3g}",
                "target, s": f"{target:.3g}",
                "target / step": f"{target / step:.2%}",
            }
        )
    return rows


def _step(model: DiffusionModel, x: torch.Tensor) -> None:
    timesteps = torch.randint(1, len(model.schedule), (len(x),))
    model.output(x, timesteps).square().mean().backward()


def _seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """The fastest of a few runs, after one to warm up."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)
