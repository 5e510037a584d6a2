from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from guda_lightning.callbacks import ResumeCheckpoint
from guda_lightning.counterfactuals import CounterfactualStore
from guda_lightning.diffusion import DiffusionModule, FullModel, weights_hash
from guda_lightning.errors import ConfigError, NumericsError
from guda_lightning.storage.provenance import Provenance
from guda_lightning.unlearning import Finetune, NegGrad, ReTrack, UnlearnModule, ZeroTarget
from toys import message, quiet_trainer, shades, tiny_unet

pytestmark = [
    # The frozen full model.
    pytest.mark.filterwarnings("ignore:Found .* module.s. in eval mode at the start of training:UserWarning"),
    pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller than:UserWarning"),
    # Lightning 2.6 with torch 2.13, in every CombinedLoader.
    pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated:FutureWarning"),
]


def full_model(dropout: float = 0.3, conditional: bool = False, **config: Any) -> FullModel:
    network = tiny_unet(dropout=dropout, **config)
    return FullModel.of(DiffusionModule(network, DDPMScheduler(), conditional=conditional))


def unlearn(objective: Any = None, full: FullModel | None = None, **arguments: Any) -> UnlearnModule:
    return UnlearnModule(
        full or full_model(),
        objective or ReTrack(),
        ["bright"],
        lambda parameters: torch.optim.AdamW(parameters, lr=1e-3),
        **arguments,
    )


class Modes(Callback):
    """Notes the mode of both networks in every training step."""

    def __init__(self) -> None:
        self.student: set[bool] = set()
        self.full: set[bool] = set()

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self.student |= {part.training for part in pl_module.denoiser.modules()}
        self.full |= {part.training for part in pl_module.full_denoiser.modules()}


@pytest.mark.parametrize("objective", [ReTrack(preserve="distill"), ZeroTarget(), NegGrad(), Finetune()])
def test_only_the_student_changes(objective: Any, tmp_path: Path) -> None:
    full, modes = full_model(), Modes()
    module = unlearn(objective, full)
    given = copy.deepcopy(full.model.denoiser.state_dict())
    trainer = quiet_trainer(tmp_path, max_epochs=2, callbacks=[modes])
    trainer.fit(module, shades().unlearning(["bright"]))
    assert full.hash == module.full_hash
    assert weights_hash(module.full_denoiser.state_dict()) == weights_hash(given)
    assert weights_hash(full.model.denoiser.state_dict()) == weights_hash(given)
    assert weights_hash(module.denoiser.state_dict()) != weights_hash(given)
    assert modes.student == {True}
    assert modes.full == {False}
    assert not any(parameter.requires_grad for parameter in module.full_denoiser.parameters())


def test_it_logs_how_the_unlearning_goes(tmp_path: Path) -> None:
    trainer = quiet_trainer(tmp_path, max_epochs=1)
    trainer.fit(unlearn(ReTrack(density_ratio=True)), shades().unlearning(["bright"]))
    assert {name for name in trainer.callback_metrics if name.startswith("unlearn/")} == {
        "unlearn/loss",
        "unlearn/forget",
        "unlearn/preserve",
        "unlearn/target_rms",
        "unlearn/effective_neighbours",
        "unlearn/underflow",
        "unlearn/density_ratio",
        "unlearn/drift",
        "unlearn/retain_loss",
        "unlearn/forget_loss",
    }
    assert 1 <= trainer.callback_metrics["unlearn/effective_neighbours"] <= 32
    assert 0 <= trainer.callback_metrics["unlearn/underflow"] <= 1
    assert trainer.callback_metrics["unlearn/target_rms"] > 0


def test_it_is_logged_and_not_said_that_naive_weights_would_all_be_zero(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Nearly without noise, nothing of the retain set is near enough for exp() in float32.
    scheduler = DDPMScheduler(num_train_timesteps=10, beta_start=1e-4, beta_end=2e-4)
    full = FullModel.of(DiffusionModule(tiny_unet(), scheduler))
    trainer = quiet_trainer(tmp_path, max_epochs=1, limit_val_batches=0)
    trainer.fit(unlearn(ReTrack(), full), shades().unlearning(["bright"]))
    assert not [line for line in caplog.records if line.name.startswith("guda_lightning")]
    assert trainer.callback_metrics["unlearn/underflow"] == 1


def test_the_monitors_are_means_over_the_samples_of_each_kind(tmp_path: Path) -> None:
    module = unlearn()
    with torch.no_grad():
        for parameter in module.denoiser.parameters():
            parameter.add_(0.01)
    data = shades(batch_size=4, probe_per_group=3).unlearning(["bright"])
    trainer = quiet_trainer(tmp_path)
    (found,) = trainer.validate(module, data, verbose=False)
    drift, losses, forget = [], [], []
    module.eval()
    with torch.no_grad():
        for number, batch in enumerate(data.val_dataloader()):
            noised = module.noised(batch, torch.Generator().manual_seed(number))
            output = module.denoiser(noised.x_t, noised.timesteps).sample
            kept = module.full_denoiser(noised.x_t, noised.timesteps).sample
            drift += (output - kept).square().mean(dim=(1, 2, 3)).tolist()
            losses += (output - noised.noise).square().mean(dim=(1, 2, 3)).tolist()
            forget += batch["groups"][:, 1].tolist()

    def mean(values: list[float], wanted: bool) -> float:
        chosen = [value for value, of_group in zip(values, forget, strict=True) if of_group == wanted]
        return sum(chosen) / len(chosen)

    assert forget.count(True) == 3
    assert found == {
        "unlearn/drift": pytest.approx(mean(drift, False), rel=1e-4),
        "unlearn/retain_loss": pytest.approx(mean(losses, False), rel=1e-4),
        "unlearn/forget_loss": pytest.approx(mean(losses, True), rel=1e-4),
    }


def test_what_validation_did_not_see_is_not_logged(tmp_path: Path) -> None:
    data = shades(batch_size=2, probe_per_group=2).unlearning(["bright"])
    # The probe set follows the order of the samples: its first batch is of the first group.
    (found,) = quiet_trainer(tmp_path, limit_val_batches=1).validate(unlearn(), data, verbose=False)
    assert found.keys() == {"unlearn/drift", "unlearn/retain_loss"}
    assert found["unlearn/drift"] < 1e-9


class Interrupt(Callback):
    """Presses Ctrl-C in the middle of an epoch."""

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if (trainer.current_epoch, batch_idx) == (2, 1):
            raise KeyboardInterrupt


def test_an_interrupted_unlearning_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    def fit(*callbacks: Callback, ckpt_path: Path | None = None) -> dict[str, Tensor]:
        torch.manual_seed(len(callbacks))
        module = unlearn(ReTrack(preserve="distill"))
        trainer = quiet_trainer(tmp_path, max_epochs=4, enable_checkpointing=True, callbacks=[*callbacks])
        data = shades(horizontal_flip=True).unlearning(["bright"])
        trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
        return module.denoiser.state_dict()

    whole = fit(ResumeCheckpoint(tmp_path / "whole"))
    with pytest.raises(SystemExit):
        fit(Interrupt(), ResumeCheckpoint(tmp_path / "parts"))
    checkpoint = ResumeCheckpoint(tmp_path / "parts")
    assert checkpoint.path is not None
    assert weights_hash(fit(checkpoint, ckpt_path=checkpoint.path)) == weights_hash(whole)


def test_what_it_stores_is_the_student_and_how_it_was_made(tmp_path: Path) -> None:
    module, data = unlearn(ReTrack(neighbours=4)), shades()
    quiet_trainer(tmp_path, max_steps=3).fit(module, data.unlearning(["bright"]))
    record = module.save(tmp_path / "store")
    weights, stored = CounterfactualStore(tmp_path / "store").load(
        record.key,
        expect=Provenance(module.full_hash, module.full.schedule.hash, data.grouping.hash),
    )
    assert stored.members_hash == data.grouping.members_hash(["bright"])
    assert weights_hash(weights) == weights_hash(module.denoiser.state_dict())
    assert (stored.operator, stored.groups, stored.steps) == ("retrack", ("bright",), 3)
    assert stored.hparams["objective"]["neighbours"] == 4
    assert stored.network_evaluations >= 3 * 16


def test_an_objective_that_does_not_fit_is_refused_before_the_first_step(tmp_path: Path) -> None:
    module = unlearn(ReTrack(neighbours=33))
    expected = message(
        "ReTrack sums over more neighbours than the retain set has samples",
        "neighbours=33, retain set of 32",
        "neighbours <= 32",
        "lower objective.init_args.neighbours, or set it to null to sum over all",
    )
    with pytest.raises(ConfigError, match=expected):
        quiet_trainer(tmp_path, max_epochs=1).fit(module, shades().unlearning(["bright"]))
    assert weights_hash(module.denoiser.state_dict()) == weights_hash(module.full_denoiser.state_dict())


class WithoutForget(LightningDataModule):
    def train_dataloader(self) -> Any:
        return DataLoader([{"image": torch.zeros(1, 8, 8)}])  # type: ignore[arg-type]

    val_dataloader = train_dataloader


def test_data_that_do_not_say_what_to_forget_are_refused(tmp_path: Path) -> None:
    expected = message(
        "the datamodule does not pair forget and retain samples",
        "datamodule WithoutForget",
        "a datamodule with groups, grouping, forget_images() and retain_images()",
        "pass datamodule=GroupDataModule(...).unlearning(groups) to trainer.fit",
    )
    with pytest.raises(ConfigError, match=expected):
        quiet_trainer(tmp_path, max_epochs=1).fit(unlearn(), WithoutForget())


def test_data_of_other_groups_are_refused(tmp_path: Path) -> None:
    expected = message(
        "the module and its data forget different groups",
        "data of dark, noisy",
        "data of bright",
        "pass the same groups to UnlearnModule and to GroupDataModule.unlearning",
    )
    with pytest.raises(ConfigError, match=expected):
        quiet_trainer(tmp_path, max_epochs=1).fit(unlearn(), shades().unlearning(["dark", "noisy"]))


def test_a_full_model_that_is_not_a_number_stops_training(tmp_path: Path) -> None:
    full = full_model()
    with torch.no_grad():
        next(full.model.denoiser.parameters()).fill_(torch.nan)
    expected = message(
        "the training loss is not finite at step 0",
        "nan",
        "a finite number",
        "check the images for NaN, lower the learning rate, or set trainer.gradient_clip_val=1.0",
    )
    with pytest.raises(NumericsError, match=expected):
        quiet_trainer(tmp_path, max_epochs=1).fit(unlearn(Finetune(), full), shades().unlearning(["bright"]))


def test_images_that_are_not_numbers_stop_training(tmp_path: Path) -> None:
    data = shades().unlearning(["bright"])
    retain = data.retain_images()
    retain[3, 0, 2, 2] = torch.nan
    data.retain_images = lambda: retain  # type: ignore[method-assign]
    with pytest.raises(NumericsError, match=r"^the training loss is not finite at step 0\n"):
        quiet_trainer(tmp_path, max_epochs=1).fit(unlearn(), data)


def test_a_conditional_full_model(tmp_path: Path) -> None:
    module = unlearn(ReTrack(preserve="distill"), full_model(conditional=True, num_class_embeds=3))
    quiet_trainer(tmp_path, max_epochs=1).fit(module, shades().unlearning(["bright"]))
    assert weights_hash(module.denoiser.state_dict()) != weights_hash(module.full_denoiser.state_dict())
