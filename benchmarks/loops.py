"""Forms of the hot loops: scoring and unlearning steps as this package does them, bare, and plainly."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DModel
from lightning.pytorch import Callback
from PIL import Image
from torch import Tensor

from benchmarks.forget_target import SETTINGS
from guda_lightning.attribution import AttributionContext, CounterfactualAttributor
from guda_lightning.attribution.scoring import noised_queries
from guda_lightning.counterfactuals import CounterfactualKey, CounterfactualRecord, CounterfactualStore
from guda_lightning.data import GroupDataModule, ImageTable, Source
from guda_lightning.diffusion import DiffusionModel, FullModel, weights_hash
from guda_lightning.diffusion.schedulers import noise_schedule
from guda_lightning.functional.elbo import squared_error
from guda_lightning.functional.noise import gaussian_noise
from guda_lightning.functional.prediction import add_noise
from guda_lightning.scores import Scoring
from guda_lightning.stages.trainer import GudaTrainer
from guda_lightning.storage.files import sha256_json
from guda_lightning.types import Queries
from guda_lightning.unlearning import Objective, UnlearnModule

GROUPS = ("a", "b")
DRAWS = 10  # noise draws of the reference algorithm at each timestep
Work = Callable[[], object]


@dataclass(frozen=True)
class Setting:
    """A network and how much of it is timed.

    Attributes:
        unet: Its configuration.
        shape: Of one sample.
        queries: That are scored.
        strata: Of two draws each; a multiple of five.
        batch: Evaluations at a time in scoring.
        half: Forget samples of an unlearning step, and as many retain samples.
        steps: Unlearning steps of a repeat.
        repeats: How often everything is timed.
    """

    unet: dict[str, Any]
    shape: tuple[int, int, int]
    queries: int
    strata: int
    batch: int
    half: int
    steps: int
    repeats: int


_DIGITS, _CIFAR10 = SETTINGS.values()
MEASURED = {
    "digits": Setting(_DIGITS["unet"], _DIGITS["shape"], 20, 50, 256, 64, 8, 5),
    "CIFAR-10": Setting(_CIFAR10["unet"], _CIFAR10["shape"], 4, 5, 10, 2, 2, 2),
}
TOYS = {
    "digits": Setting(
        {
            **_DIGITS["unet"],
            "block_out_channels": (8,),
            "down_block_types": ("DownBlock2D",),
            "up_block_types": ("UpBlock2D",),
            "norm_num_groups": 4,
            "attention_head_dim": 8,
        },
        (1, 8, 8),
        1,
        5,
        5,
        2,
        2,
        1,
    )
}


def full_model(setting: Setting) -> FullModel:
    """A network with random weights, without dropout."""
    torch.manual_seed(0)
    scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2")
    network = UNet2DModel(**{**setting.unet, "dropout": 0.0}).eval()
    model = DiffusionModel(network, noise_schedule(scheduler), "epsilon")
    return FullModel(model, scheduler, weights_hash(network.state_dict()))


def scoring_forms(setting: Setting, folder: Path) -> tuple[dict[str, Work], int]:
    """All ways of scoring, the bare evaluations first, and the evaluations of each."""
    full = full_model(setting)
    store = CounterfactualStore(folder)
    for number, group in enumerate(GROUPS):
        with torch.no_grad():
            weights = {k: v * (1 + 0.01 * number) for k, v in full.model.denoiser.state_dict().items()}
        store.save(weights, _record(full, group))
    pixels = torch.rand(setting.queries, *setting.shape) * 2 - 1
    queries = Queries(tuple(f"query-{number}" for number in range(setting.queries)), pixels)
    scoring = Scoring(strata=setting.strata, draws=2, batch_size=setting.batch)
    attributor = CounterfactualAttributor(folder, scoring=scoring).fit(AttributionContext(full))
    forms: dict[str, Work] = {
        "bare": bare_passes(full.model, queries, scoring, 1 + len(GROUPS)),
        "ours": partial(attributor.score, queries),
        "straightforward": partial(plain, full.model, store, queries, scoring),
        "reference": partial(reference, full.model, store, queries, scoring),
    }
    return forms, (1 + len(GROUPS)) * setting.queries * setting.strata * 2


def bare_passes(model: DiffusionModel, queries: Queries, scoring: Scoring, times: int) -> Work:
    """The network evaluations of a scoring on tensors that are ready."""
    ready = list(noised_queries(queries, scoring, model.schedule, "cpu"))
    inputs = [(batch.x_t.to(memory_format=torch.channels_last), batch.timesteps) for batch in ready]
    network = copy.deepcopy(model.denoiser).requires_grad_(False).to(memory_format=torch.channels_last)

    def work() -> None:
        with torch.inference_mode():
            for _ in range(times):
                for x_t, timesteps in inputs:
                    network(x_t, timesteps)

    return work


def plain(
    model: DiffusionModel, store: CounterfactualStore, queries: Queries, scoring: Scoring
) -> list[Tensor]:
    """Squared errors ``[queries, strata, draws]`` of the full model and of each group, by a plain loop."""
    network = copy.deepcopy(model.denoiser)
    timesteps = scoring.plan(model.schedule).draw(scoring.seed, queries.noise_keys)
    flat = [(q, s, d) for q, s, d in np.ndindex(*timesteps.shape)]
    errors = []
    for group in (None, *GROUPS):
        if group is not None:
            network.load_state_dict(_load(store, group))
        parts = []
        for start in range(0, len(flat), scoring.batch_size):
            rows = flat[start : start + scoring.batch_size]
            t = torch.stack([timesteps[row] for row in rows])
            keys, draws = [queries.noise_keys[q] for q, _, _ in rows], torch.tensor([d for _, _, d in rows])
            x0 = torch.stack([queries.inputs[q] for q, _, _ in rows])
            noise = gaussian_noise(scoring.seed, keys, t, draws, x0.shape[1:])
            gamma, sigma = model.schedule.at(t, like=x0)
            with torch.no_grad():
                predicted = network(add_noise(x0, noise, gamma, sigma), t).sample
            parts.append(squared_error(noise, predicted))
        errors.append(torch.cat(parts).view(timesteps.shape))
    return errors


def reference(
    model: DiffusionModel, store: CounterfactualStore, queries: Queries, scoring: Scoring
) -> list[float]:
    """Sums of squared errors as the paper's code takes them, from as many evaluations."""
    count = scoring.plan(model.schedule).evaluations // DRAWS
    grid = torch.linspace(1, len(model.schedule) - 2, count).long()
    sums = []
    for group in (None, *GROUPS):
        network = copy.deepcopy(model.denoiser)
        if group is not None:
            network.load_state_dict(_load(store, group))
        for number in range(len(queries)):
            generator, total = torch.Generator().manual_seed(number), 0.0
            for t in grid:
                times = t.expand(DRAWS)
                x0 = queries.inputs[number].expand(DRAWS, *queries.inputs.shape[1:])
                noise = torch.randn(x0.shape, generator=generator)
                gamma, sigma = model.schedule.at(times, like=x0)
                with torch.no_grad():
                    predicted = network(add_noise(x0, noise, gamma, sigma), times).sample
                total += float(squared_error(noise, predicted).mean())
            sums.append(total)
    return sums


def _record(full: FullModel, group: str) -> CounterfactualRecord:
    """The record of an unlearning by ReTrack that never was."""
    key = CounterfactualKey("retrack", (group,), 0, sha256_json({}))
    return CounterfactualRecord.of(
        key, {}, full.provenance(""), members_hash="", seconds=1.0, steps=1, network_evaluations=1
    )


def _load(store: CounterfactualStore, group: str) -> dict[str, Tensor]:
    key = store.select("retrack", 0)[group]
    return store.load(key, expect=None)[0]


class Noise(Source):
    """Random pictures of two groups."""

    def __init__(self, shape: Sequence[int], count: int) -> None:
        channels, height, width = shape
        pixels = np.random.default_rng(0).integers(0, 256, (count, height, width, channels), np.uint8)
        self.pixels = pixels if channels == 3 else pixels[..., 0]

    def load(self) -> ImageTable:
        """See ``Source.load``."""
        count = len(self.pixels)
        return ImageTable(
            ids=tuple(str(number) for number in range(count)),
            read=lambda number: Image.fromarray(self.pixels[number]),
            labels=tuple("a" if number < count // 10 else "b" for number in range(count)),
            label_names=GROUPS,
        )


class Clock(Callback):
    """Seconds of the cores and of the clock from the second step of a training to its last."""

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        """Note the time."""
        self.end = time.process_time(), time.perf_counter()
        if batch_idx == 1:
            self.start = self.end


def step_forms(setting: Setting, objective: Objective, folder: Path) -> dict[str, Work]:
    """A bare step and one in a trainer; each says the seconds of ``setting.steps`` of them."""
    full = full_model(setting)
    data = GroupDataModule(Noise(setting.shape, 20 * setting.half), batch_size=setting.half)

    def ours() -> tuple[float, float]:
        clock, module = Clock(), UnlearnModule(full, objective, ["a"])
        trainer = GudaTrainer(
            max_steps=setting.steps + 2, max_epochs=-1, accelerator="cpu", devices=1, logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            limit_val_batches=0, callbacks=[clock], default_root_dir=folder,
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the full model is in evaluation mode, on purpose
            trainer.fit(module, datamodule=data.unlearning(["a"]))
        return clock.end[0] - clock.start[0], clock.end[1] - clock.start[1]

    return {"bare": partial(bare_steps, setting, objective, full), "ours": ours}


def bare_steps(setting: Setting, objective: Objective, full: FullModel) -> tuple[float, float]:
    """Forward, backward and optimizer steps on tensors that are ready."""
    network = copy.deepcopy(full.model.denoiser).train()
    frozen = copy.deepcopy(full.model.denoiser).requires_grad_(False)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-4)
    x, t = torch.rand(2 * setting.half, *setting.shape), torch.randint(0, 1000, (2 * setting.half,))
    target = torch.rand_like(x)
    start = 0.0, 0.0
    for number in range(setting.steps + 1):
        if number == 1:
            start = time.process_time(), time.perf_counter()
        if objective.full_passes:
            with torch.inference_mode():
                frozen(x[: setting.half], t[: setting.half])
        optimizer.zero_grad()
        (network(x, t).sample - target).square().mean().backward()
        optimizer.step()
    return time.process_time() - start[0], time.perf_counter() - start[1]
