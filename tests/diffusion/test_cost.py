from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from lightning.pytorch import Callback, LightningModule, Trainer

from guda_lightning import CounterfactualStore, DiffusionModule, GudaTrainer
from guda_lightning.callbacks import ResumeCheckpoint
from guda_lightning.diffusion import diffusion_model
from guda_lightning.diffusion.cost import TrainingCost, seconds_per_step
from guda_lightning.unlearning import Finetune
from toys import quiet_trainer, shades, tiny_unet

pytestmark = pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller")
BATCH_SIZE, STEPS = 8, 5
EPOCH = 48 + 6  # images of an epoch and of the probe set


def build() -> DiffusionModule:
    return DiffusionModule(tiny_unet(), DDPMScheduler(20))


class Interrupt(Callback):
    """Presses Ctrl-C in the middle of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if (trainer.current_epoch, batch_idx) == (self.epoch, 3):
            raise KeyboardInterrupt


def trained(folder: Path, module: LightningModule, cost: TrainingCost, *callbacks: Callback) -> TrainingCost:
    """Train three epochs, from the checkpoint of an earlier attempt if there is one."""
    checkpoint = ResumeCheckpoint(folder)
    # The cost comes last: only Lightning's own order of callbacks puts it before the checkpoint.
    trainer = quiet_trainer(
        folder, max_epochs=3, enable_checkpointing=True, callbacks=[checkpoint, *callbacks, cost]
    )
    trainer.fit(module, shades(batch_size=8), ckpt_path=checkpoint.path, weights_only=True)
    return cost


def test_it_counts_every_image_that_passes_through_a_network(tmp_path: Path) -> None:
    module = build()
    cost = trained(tmp_path, module, TrainingCost(module.denoiser))
    assert cost.finished
    assert cost.evaluations == 3 * EPOCH
    assert cost.seconds > 0
    # The network is left as it was, and another training begins to count anew.
    assert not module.denoiser._forward_hooks
    assert trained(tmp_path / "again", module, cost).evaluations == 3 * EPOCH


def test_attempts_add_up_and_what_was_lost_is_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A clock that ticks once each time it is read: when training begins, at the end of each epoch and of all.
    monkeypatch.setattr(
        "guda_lightning.diffusion.cost.time",
        SimpleNamespace(perf_counter=count().__next__, process_time=count().__next__),
    )
    for epoch, whole in ((0, 0), (1, 1), (2, 2)):
        module = build()
        cost = TrainingCost(module.denoiser)
        with pytest.raises(SystemExit):
            trained(tmp_path, module, cost, Interrupt(epoch))
        assert not cost.finished
        assert not module.denoiser._forward_hooks
        assert cost.evaluations == whole * EPOCH
        assert cost.seconds == whole
    module = build()
    cost = trained(tmp_path, module, TrainingCost(module.denoiser))
    assert cost.evaluations == 3 * EPOCH
    assert cost.seconds == 3 + 1

    # Killed after the last epoch, before anything was stored: nothing is left to train.
    cost = trained(tmp_path, module, cost)
    assert cost.finished
    assert cost.evaluations == 3 * EPOCH
    assert cost.seconds == 3 + 1  # of the checkpoint, and the end of this training


def test_a_checkpoint_of_somebody_else_tells_no_cost(tmp_path: Path) -> None:
    module = build()
    trainer = quiet_trainer(tmp_path, max_epochs=1)
    trainer.fit(module, shades(batch_size=8))
    trainer.save_checkpoint(tmp_path / "theirs.ckpt")
    cost = TrainingCost(module.denoiser)
    trainer = quiet_trainer(tmp_path, max_epochs=3, callbacks=[cost])
    trainer.fit(module, shades(batch_size=8), ckpt_path=tmp_path / "theirs.ckpt", weights_only=True)
    assert cost.evaluations == 2 * EPOCH


def test_a_trainer_without_it_reads_its_checkpoints_without_a_warning(tmp_path: Path) -> None:
    module = build()
    trainer = quiet_trainer(tmp_path, max_epochs=1, callbacks=[TrainingCost(module.denoiser)])
    trainer.fit(module, shades(batch_size=8))
    trainer.save_checkpoint(tmp_path / "ours.ckpt")
    plain = quiet_trainer(tmp_path, max_epochs=2)
    plain.fit(module, shades(batch_size=8), ckpt_path=tmp_path / "ours.ckpt", weights_only=True)
    assert plain.current_epoch == 2


def test_records_count_what_was_done(tmp_path: Path) -> None:  # of two processes: test_several_processes.py
    torch.set_num_threads(1)
    data = shades(batch_size=BATCH_SIZE)
    trainer = GudaTrainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        devices=1,
        max_steps=STEPS,
        max_epochs=-1,
        limit_val_batches=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit_full(build(), data)
    trainer.retrain(build, data, ["dark"], seeds=[0, 1])
    trainer.unlearn(build(), data, Finetune(), steps=STEPS, groups=["dark"])
    evaluations = STEPS * BATCH_SIZE
    full = json.loads((tmp_path / "full" / "record.json").read_text())
    assert (full["steps"], full["network_evaluations"]) == (STEPS, evaluations)
    records = CounterfactualStore(tmp_path / "store").records()
    assert {(record.operator, record.seed) for record in records} == {
        ("finetune", 0),
        ("retrain", 0),
        ("retrain", 1),
    }
    assert {(record.steps, record.network_evaluations) for record in records} == {(STEPS, evaluations)}


def test_a_frozen_network_with_weights_that_are_no_floats_can_be_timed() -> None:
    network = tiny_unet().requires_grad_(False)
    network.register_parameter("levels", torch.nn.Parameter(torch.zeros(3, dtype=torch.int8), False))
    model = diffusion_model(DiffusionModule(network, DDPMScheduler(20)))
    assert seconds_per_step(model, shades().image_shape, 2) > 0
    assert not any(weight.requires_grad for weight in network.parameters())
