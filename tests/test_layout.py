"""Modules whose denoiser is an average: what is trained is another network of theirs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from guda_lightning.diffusion import weights_hash
from guda_lightning.diffusion.cost import TrainingCost
from guda_lightning.errors import ConfigError
from guda_lightning.makers.layout import Layout
from guda_lightning.stages.base import StageTrainer
from guda_lightning.stages.fit import validate_full
from toys import message, quiet_trainer, tiny_unet


class Averaging(LightningModule):
    """Trains ``unet`` and keeps its average, as a class that cannot be copied."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.unet, self.noise, self.other = tiny_unet(seed=seed), DDPMScheduler(), tiny_unet(seed=seed + 1)
        self.ema = AveragedModel(self.unet)

    def __deepcopy__(self, memo: object) -> Averaging:
        raise TypeError("cannot be copied")

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss: Tensor = self.unet(batch, torch.zeros(len(batch))).sample.square().mean()
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        pass

    def val_dataloader(self) -> DataLoader[Tensor]:
        return DataLoader(torch.zeros(2, 1, 8, 8))  # type: ignore[arg-type]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.unet.parameters(), 0.1)


def hashes(*networks: nn.Module) -> list[str]:
    return [weights_hash(network.state_dict()) for network in networks]


def test_the_trained_network_begins_with_the_given_weights_too(tmp_path: Path) -> None:
    start = tiny_unet(seed=7)
    start.save_pretrained(tmp_path)
    module = Averaging()
    other = weights_hash(module.other.state_dict())
    Layout("ema", "noise", start=tmp_path).initialize(module)
    assert hashes(module.unet, module.ema.module, module.other) == [*hashes(start, start), other]


def test_validation_runs_on_the_full_model_whatever_network_it_takes(tmp_path: Path) -> None:
    start = tiny_unet(seed=7)
    start.save_pretrained(tmp_path / "full")
    module = Averaging()
    trainer = StageTrainer("ema", "noise", default_root_dir=tmp_path, accelerator="cpu", logger=False)
    validate_full(trainer, module, verbose=False)
    assert hashes(module.unet, module.ema.module) == hashes(start, start)


def test_evaluations_of_the_trained_network_count(tmp_path: Path) -> None:
    module = Averaging()
    cost = TrainingCost(*Layout("ema", "noise").networks(module))
    images = DataLoader(torch.zeros(6, 1, 8, 8), batch_size=2)  # type: ignore[arg-type]
    quiet_trainer(tmp_path, max_epochs=1, callbacks=[cost]).fit(module, images)
    assert cost.evaluations == 6


def test_a_network_that_a_hook_builds_is_not_there_yet() -> None:
    class Late(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.noise = DDPMScheduler()

        def configure_model(self) -> None:
            self.unet = tiny_unet()

    expected = message(
        "Late has no denoiser at 'unet'",
        "Late has no attribute 'unet'",
        "a dotted attribute path; near it: noise",
        "build it in __init__, or correct the path: configure_model of the module is called later",
    )
    with pytest.raises(ConfigError, match=expected):
        Layout("unet", "noise").full(Late())
