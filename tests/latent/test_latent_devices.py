"""Text-to-image models train and unlearn on another device: prompts, latents and adapters follow."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from guda_lightning.attribution import squared_errors
from guda_lightning.diffusion import FullModel, sample
from guda_lightning.diffusion.adapters import Lora, own_weights
from guda_lightning.latent import LatentDataModule, LatentDiffusionModule
from guda_lightning.scores import Scoring
from guda_lightning.types import Queries
from guda_lightning.unlearning import Anchor, UnlearnModule
from second_device import second_device
from toys import quiet_trainer


def trained(
    pretrained: str, data: LatentDataModule, folder: Path, device: str, **trainer: Any
) -> list[torch.Tensor]:
    """An adapter's matrices, squared errors and a sample, all made on one device."""
    module = LatentDiffusionModule(pretrained, lora=Lora(2), prompt_dropout=0.5)
    limits = {"max_steps": 2, "limit_val_batches": 1}
    quiet_trainer(folder, **limits, **trainer).fit(module, data)
    full = FullModel.of(module)
    student = UnlearnModule(full, Anchor(strategy="uniform_style"), ["red"], lora=Lora(2))
    quiet_trainer(folder, **limits, **trainer).fit(student, data.unlearning(["red"]))
    queries = Queries(("a", "b"), torch.zeros(2, 0), torch.tensor([1, 2]), latents=data.inputs[:2])
    student.to(device)
    errors, _ = squared_errors(student.student, queries, Scoring(strata=2, draws=1), device=device)
    drawn = sample(
        student.student,
        full.scheduler,
        (4, 4, 4),
        [0],
        seed=0,
        steps=2,
        labels=torch.tensor([1]),
        device=device,
        prompt_guidance=2.0,
    )
    return [errors, drawn, *(value.cpu() for value in own_weights(student.denoiser).values())]


@pytest.mark.parametrize("where", ["second", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_text_to_image_on_another_device(
    where: str, pretrained: str, data: LatentDataModule, tmp_path: Path
) -> None:
    expected = trained(pretrained, data, tmp_path, "cpu")
    second = where == "second"
    with second_device() if second else nullcontext():
        options = {"strategy": "second", "inference_mode": False} if second else {"accelerator": "gpu"}
        found = trained(pretrained, data, tmp_path, "cuda:0", **options)
    assert all(value.device.type == "cpu" and bool(value.isfinite().all()) for value in found)
    if second:  # whose random numbers are those of the CPU
        for mine, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)
