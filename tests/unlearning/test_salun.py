"""SalUn: a share of the weights changes, the others keep their bits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.forget_target import TwoGroups
from diffusers import DDPMScheduler
from lightning.pytorch import Callback
from torch import Tensor

from guda_lightning.callbacks import ResumeCheckpoint
from guda_lightning.diffusion import DiffusionModule, FullModel, weights_hash
from guda_lightning.diffusion.adapters import Lora
from guda_lightning.diffusion.module import noised
from guda_lightning.distributed.ranks import Ranks
from guda_lightning.errors import ConfigError
from guda_lightning.functional.schedule import NoiseSchedule
from guda_lightning.unlearning import EraseDiff, Finetune, ReTrack, SalUn, UnlearnModule, ZeroTarget
from guda_lightning.unlearning.bound import ObjectiveContext
from guda_lightning.unlearning.hparams import unlearning_hparams
from guda_lightning.unlearning.module import default_optimizer
from guda_lightning.unlearning.salun import BoundSalUn
from toys import message, quiet_trainer, shades, tiny_unet

pytestmark = [
    # The frozen full model.
    pytest.mark.filterwarnings("ignore:Found .* module.s. in eval mode at the start of training:UserWarning"),
    pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller than:UserWarning"),
]


def module(objective: SalUn, decay: float = 0.0, **arguments: Any) -> UnlearnModule:
    full = FullModel.of(DiffusionModule(tiny_unet(dropout=0.3), DDPMScheduler()))

    def adamw(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=1e-2, weight_decay=decay)

    return UnlearnModule(full, objective, ["bright"], adamw, **arguments)


class Bits(Callback):
    """Which weights differ from their start, as callbacks see them after every step."""

    def __init__(self) -> None:
        self.changed: list[Tensor] = []

    def _weights(self, module: Any) -> Tensor:
        return torch.cat([p.detach().flatten() for p in module.denoiser.parameters() if p.requires_grad])

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.start = self._weights(pl_module)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.changed.append(self._weights(pl_module) != self.start)


def changes(folder: Path, student: UnlearnModule, steps: int = 3) -> Bits:
    bits = Bits()
    trainer = quiet_trainer(
        folder, max_steps=steps, callbacks=[bits], gradient_clip_val=1.0, limit_val_batches=0
    )
    trainer.fit(student, shades().unlearning(["bright"]))
    return bits


def saliency(student: UnlearnModule, data: Any) -> Tensor:
    """The gradient of the denoising loss on the whole forget set, in one batch."""
    model = student.full
    batch = noised(data.forget_images(), None, model.schedule, torch.Generator().manual_seed(0))
    weights = [p.requires_grad_() for p in model.denoiser.parameters()]
    loss = (model.output(batch.x_t, batch.timesteps) - batch.noise).square().mean()
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, weights)])


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("share", [0.5, 0.03])
def test_only_the_most_salient_weights_change(share: float, decay: float, tmp_path: Path) -> None:
    student = module(SalUn(objective=Finetune(), share=share), decay)
    bits = changes(tmp_path, student)
    size = saliency(student, shades().unlearning(["bright"])).abs()
    threshold = size.sort(descending=True).values[round(share * len(size)) - 1]
    assert len(bits.changed) == 3
    for changed in bits.changed:
        # Sums in another order: what lies on the threshold may fall on either side.
        assert not bool(changed[size < threshold * (1 - 1e-3)].any())
    assert int(student._bound.state["salun"].sum()) == round(share * len(size))
    assert int(bits.changed[-1].sum()) == pytest.approx(round(share * len(size)), abs=2)  # some step may be 0


def test_the_mask_does_not_touch_the_objective(tmp_path: Path) -> None:
    whole, plain = module(SalUn(objective=ZeroTarget(), share=1.0)), module(ZeroTarget())  # type: ignore[arg-type]
    for student in (whole, plain):
        changes(tmp_path, student)
    assert weights_hash(whole.denoiser.state_dict()) == weights_hash(plain.denoiser.state_dict())


def test_objectives_that_draw_or_look_at_gradients_can_be_masked(tmp_path: Path) -> None:
    bits = changes(tmp_path, module(SalUn(objective=EraseDiff(), share=0.25)))
    assert 0.2 < float(bits.changed[-1].float().mean()) <= 0.25


def test_an_adapter_is_masked_within_itself(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    bits = changes(tmp_path, module(SalUn(objective=ZeroTarget(), share=0.25), lora=Lora(rank=2)))
    assert 0 < float(bits.changed[-1].float().mean()) <= 0.25


def test_processes_without_a_sample_to_forget_share_the_saliency() -> None:
    class Unsummed(Ranks):
        def mean(self, tensor: Tensor) -> Tensor:
            return tensor

    student, data = module(SalUn(objective=Finetune())), shades(per_group=1).unlearning(["bright"])

    def shares(count: int) -> list[Tensor]:
        found = []
        for rank in range(count):
            made_from = data, student.full.schedule, student.provenance, torch.device("cpu"), False
            bound = student.objective.bind(ObjectiveContext(*made_from, Unsummed(rank, count)))
            assert isinstance(bound, BoundSalUn)
            found.append(bound._saliency(student.student, 4))
        return found

    alone, (first, second) = shares(1)[0], shares(2)
    assert torch.equal(first, alone) and float(alone.abs().sum()) > 0 and not bool(second.any())


class Interrupt(Callback):
    """Presses Ctrl-C in the middle of an epoch."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) == (1, 1):
            raise KeyboardInterrupt


def test_an_interrupted_unlearning_keeps_its_mask(tmp_path: Path) -> None:
    def fit(*callbacks: Callback, ckpt_path: Path | None = None) -> dict[str, Tensor]:
        student = module(SalUn(objective=ZeroTarget(), share=0.3), 0.1)
        trainer = quiet_trainer(tmp_path, max_epochs=2, enable_checkpointing=True, callbacks=[*callbacks])
        trainer.fit(student, shades().unlearning(["bright"]), ckpt_path=ckpt_path, weights_only=True)
        return student.denoiser.state_dict()

    whole = fit(ResumeCheckpoint(tmp_path / "whole"))
    with pytest.raises(SystemExit):
        fit(Interrupt(), ResumeCheckpoint(tmp_path / "parts"))
    checkpoint = ResumeCheckpoint(tmp_path / "parts")
    assert checkpoint.path is not None
    assert weights_hash(fit(checkpoint, ckpt_path=checkpoint.path)) == weights_hash(whole)


def test_its_identity_is_that_of_the_objective_and_the_share() -> None:
    salun = SalUn(objective=ReTrack(neighbours=3, preserve="distill"))
    assert (salun.operator, salun.sized) == ("salun_retrack_distill", False)
    assert salun.hparams == {
        "objective": {"class": "ReTrack", **ReTrack(neighbours=3, preserve="distill").hparams},
        "share": 0.5,
    }
    recorded = unlearning_hparams(salun, default_optimizer, None, 1, shades(), quiet_trainer(Path()))
    assert recorded["objective"] == {"class": "SalUn", **salun.hparams}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("share", 0.0, "0 < share <= 1"),
        ("share", 1.5, "0 < share <= 1"),
        ("objective", SalUn(objective=Finetune()), "an objective that masks no weights"),
    ],
)
def test_arguments_out_of_range_are_refused(name: str, value: Any, expected: str) -> None:
    fix = f"set objective.init_args.{name} to such a value"
    with pytest.raises(ConfigError, match=message(f"invalid {name} of SalUn", value, expected, fix)):
        SalUn(**{"objective": Finetune(), name: value})


def test_a_conditional_model_needs_the_samples_conditions() -> None:
    schedule = NoiseSchedule.from_alphas_cumprod(torch.tensor([0.9, 0.5]))
    context = TwoGroups(torch.zeros(2, 1, 8, 8), torch.ones(2, 1, 8, 8)).context(schedule)
    expected = message(
        "SalUn needs the conditions of the samples to forget",
        "datamodule TwoGroups, and a conditional model",
        "training data that say them",
        "train on GroupDataModule(...).unlearning(groups)",
    )
    with pytest.raises(ConfigError, match=expected):
        SalUn(objective=Finetune()).bind(replace(context, conditional=True))
