from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from guda_lightning.callbacks import ResumeCheckpoint
from guda_lightning.diffusion import DiffusionModule, WarmupCosine
from guda_lightning.errors import ConfigError, NumericsError
from toys import message, quiet_trainer, shades, tiny_unet

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:The number of training batches .* is smaller than the logging:UserWarning"
    ),
    # The moving average is never trained.
    pytest.mark.filterwarnings("ignore:Found .* module.s. in eval mode at the start of training:UserWarning"),
]


def optimizer(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=5e-3)


def lr_scheduler(optimizer: torch.optim.Optimizer) -> WarmupCosine:
    return WarmupCosine(optimizer, warmup_steps=2, total_steps=24)


def module(dropout: float = 0.0, **arguments: Any) -> DiffusionModule:
    defaults: dict[str, Any] = {"scheduler": DDPMScheduler(), "optimizer": optimizer}
    return DiffusionModule(tiny_unet(dropout=dropout), **{**defaults, **arguments})


@pytest.mark.parametrize(
    ("scheduler", "conditional"),
    [
        (DDPMScheduler(), True),
        (DDPMScheduler(prediction_type="v_prediction", beta_schedule="squaredcos_cap_v2"), False),
        (DDPMScheduler(prediction_type="sample"), False),
        (FlowMatchEulerDiscreteScheduler(), True),
    ],
    ids=["epsilon", "v_prediction", "sample", "flow"],
)
def test_training_lowers_the_loss(scheduler: Any, conditional: bool, tmp_path: Path) -> None:
    network = tiny_unet(num_class_embeds=3) if conditional else tiny_unet()
    model = DiffusionModule(network, scheduler, optimizer, conditional=conditional, ema_decay=0.8)
    data = shades(probe_per_group=16)
    trainer = quiet_trainer(tmp_path, max_epochs=6)
    (before,) = trainer.validate(model, data, verbose=False)
    trainer.fit(model, data)
    assert trainer.callback_metrics["val/loss"] < 0.6 * before["val/loss"]
    assert {"train/loss", "val/loss"} <= trainer.callback_metrics.keys()
    if conditional:  # it has learnt what the labels say
        right, wrong = (_loss_of_labels(model, next(iter(data.val_dataloader())), shift) for shift in (0, 1))
        assert right < wrong


def _loss_of_labels(model: DiffusionModule, batch: Any, shift: int) -> float:
    """The loss on a batch whose labels are shifted."""
    labelled = {**batch, "label": (batch["label"] + shift) % 3}
    model.setup("fit")
    with torch.no_grad():
        noised = model.noised(labelled, torch.Generator().manual_seed(0))
        return float(model.denoising_loss(model.student, noised))


def test_a_conditional_model_needs_labels() -> None:
    model = module(conditional=True)
    expected = message(
        "a label-conditional model got a batch without labels",
        "batch keys ['image', 'index']",
        "the key 'label'",
        "use data with labels, or set model.init_args.conditional to false",
    )
    with pytest.raises(ConfigError, match=expected):
        model.noised({"image": torch.zeros(1, 1, 8, 8), "index": torch.zeros(1)})


class Weights(Callback):
    """Copies the denoiser's weights after every optimizer step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step > len(self.steps):
            state = pl_module.denoiser.state_dict()
            self.steps.append({name: value.clone() for name, value in state.items()})

    def average(self, decay: float) -> dict[str, Tensor]:
        average = self.steps[0]
        for step in self.steps[1:]:
            average = {name: decay * average[name] + (1 - decay) * step[name] for name in average}
        return average


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_moving_average_is_that_of_the_formula(accumulate: int, tmp_path: Path) -> None:
    model, weights = module(ema_decay=0.7), Weights()
    trainer = quiet_trainer(tmp_path, max_epochs=2, accumulate_grad_batches=accumulate, callbacks=[weights])
    trainer.fit(model, shades())
    assert len(weights.steps) == 12 // accumulate
    average, expected = model.averaged.denoiser.state_dict(), weights.average(0.7)
    assert average.keys() == expected.keys()
    for name, value in average.items():
        assert torch.allclose(value, expected[name], atol=1e-6)
        assert not torch.equal(value, weights.steps[-1][name])


def test_without_a_decay_the_trained_weights_are_the_model() -> None:
    model = module()
    assert model.ema is None
    assert model.averaged.denoiser is model.denoiser


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_a_decay_out_of_range_is_refused(decay: float) -> None:
    expected = message(
        "the EMA decay is out of range",
        decay,
        "0 <= ema_decay < 1, or null for no average",
        "set model.init_args.ema_decay, e.g. 0.9999 for long runs, 0.995 for short ones",
    )
    with pytest.raises(ConfigError, match=expected):
        module(ema_decay=decay)


class Interrupt(Callback):
    """Presses Ctrl-C in the middle of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if (trainer.current_epoch, batch_idx) == (self.epoch, 2):
            raise KeyboardInterrupt


def test_an_interrupted_run_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    def fit(*callbacks: Callback, ckpt_path: Path | None = None) -> dict[str, Tensor]:
        torch.manual_seed(len(callbacks))  # nothing may depend on the state of the global generator
        model = module(dropout=0.3, ema_decay=0.7, lr_scheduler=lr_scheduler)
        trainer = quiet_trainer(
            tmp_path,
            max_epochs=3,
            enable_checkpointing=True,
            accumulate_grad_batches=2,
            callbacks=[*callbacks],
        )
        trainer.fit(model, shades(horizontal_flip=True), ckpt_path=ckpt_path, weights_only=True)
        return model.state_dict()

    whole = fit(ResumeCheckpoint(tmp_path / "whole"))
    checkpoint = ResumeCheckpoint(tmp_path / "parts")
    with pytest.raises(SystemExit):
        fit(Interrupt(epoch=1), checkpoint)
    assert torch.load(checkpoint.path, weights_only=True)["epoch"] == 0
    resumed = fit(ResumeCheckpoint(tmp_path / "parts"), ckpt_path=checkpoint.path)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_every_process_and_seed_draws_noise_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(seed: int, rank: int, batch_idx: int) -> float:
        model = module(seed=seed)
        monkeypatch.setattr(DiffusionModule, "global_rank", rank)
        model.on_train_batch_start({}, batch_idx)
        return float(torch.rand(()))

    keys = [(seed, rank, batch) for seed in (0, 1) for rank in (0, 1) for batch in (0, 1)]
    assert len({draw(*key) for key in keys}) == len(keys)
    assert draw(1, 1, 1) == draw(1, 1, 1)


def test_data_that_are_not_numbers_stop_training_before_the_weights_do(tmp_path: Path) -> None:
    images = torch.zeros(8, 1, 8, 8)
    images[5, 0, 3, 3] = torch.nan
    batches: DataLoader[Any] = DataLoader([{"image": image} for image in images], batch_size=4)
    model = module()
    expected = message(
        "the training loss is not finite at step 1",
        "nan",
        "a finite number",
        "check the images for NaN, lower the learning rate, or set trainer.gradient_clip_val=1.0",
    )
    with pytest.raises(NumericsError, match=expected):
        quiet_trainer(tmp_path, max_epochs=1).fit(model, batches, batches)
    assert all(bool(value.isfinite().all()) for value in model.denoiser.parameters())


@pytest.mark.parametrize(
    "how",
    [
        {"max_epochs": 1, "limit_val_batches": 0},  # the last step of a training
        {"max_epochs": 1, "val_check_interval": 2},  # a validation right after the step
        {"max_epochs": 2, "limit_val_batches": 0},  # a later step
    ],
)
def test_on_a_gpu_a_loss_is_looked_at_a_step_late_and_nothing_of_its_weights_is_written(
    how: dict[str, int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class AfterEveryStep(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            trainer.save_checkpoint(tmp_path / f"{trainer.global_step}.ckpt", weights_only=True)

    class NeverValidated(Callback):
        def on_validation_batch_start(self, *_: Any) -> None:
            raise AssertionError("a lost model is validated")

    monkeypatch.setattr(DiffusionModule, "_checks_at_once", False)
    images = torch.zeros(8, 1, 8, 8)
    images[5, 0, 3, 3] = torch.nan
    batches: DataLoader[Any] = DataLoader([{"image": image} for image in images], batch_size=4)
    model = module(optimizer=torch.optim.SGD)
    expected = message(
        "the training loss is not finite at step 1",
        "nan",
        "a finite number",
        "check the images for NaN, lower the learning rate, or set trainer.gradient_clip_val=1.0",
    )
    with pytest.raises(NumericsError, match=expected):
        quiet_trainer(tmp_path, callbacks=[NeverValidated()], **how).fit(model, batches, batches)
    assert not all(bool(value.isfinite().all()) for value in model.denoiser.parameters())

    model = module(optimizer=torch.optim.SGD)
    with pytest.raises(NumericsError, match=expected):
        quiet_trainer(tmp_path, callbacks=[AfterEveryStep()], **how).fit(model, batches, batches)
    with pytest.raises(NumericsError, match=expected):  # nor later
        model.trainer.save_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    (found,) = tmp_path.glob("*.ckpt")
    assert found.name == "1.ckpt"
    kept = torch.load(found, weights_only=True)["state_dict"]
    assert all(bool(value.isfinite().all()) for value in kept.values())


def test_validation_uses_the_average_and_the_same_noise_every_time(tmp_path: Path) -> None:
    model, data = module(dropout=0.5, ema_decay=0.7), shades()
    trainer = quiet_trainer(tmp_path)
    (first,) = trainer.validate(model, data, verbose=False)
    with torch.no_grad():
        for parameter in model.denoiser.parameters():
            parameter.zero_()
    (second,) = trainer.validate(model, data, verbose=False)
    assert first == second


@pytest.mark.parametrize("factory", [lr_scheduler, None])
def test_the_learning_rate_changes_every_step(factory: Callable[..., Any] | None, tmp_path: Path) -> None:
    model = module(lr_scheduler=factory)
    quiet_trainer(tmp_path, max_steps=7).fit(model, shades())
    assert isinstance(model.lr_schedulers(), WarmupCosine) == (factory is not None)
    if factory is not None:
        assert model.lr_schedulers().last_epoch == 7


def test_the_rate_warms_up_and_then_falls_along_a_cosine() -> None:
    made = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = WarmupCosine(made, warmup_steps=3, total_steps=7)
    rates = []
    for _ in range(10):
        rates.append(made.param_groups[0]["lr"])
        made.step()
        schedule.step()
    half = 0.5**0.5
    expected = [0.25, 0.5, 0.75, 1.0, (1 + half) / 2, 0.5, (1 - half) / 2, 0, 0, 0]
    assert rates == pytest.approx(expected)
