from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from diffusers import DDPMScheduler
from lightning.pytorch import Trainer
from torch import nn

from guda_lightning.data import HeldOutDataModule
from guda_lightning.diffusion import DiffusionModel
from guda_lightning.diffusion.schedulers import noise_schedule
from guda_lightning.posteriors import ClassifierPlan, GroupClassifier, weights_of
from guda_lightning.posteriors.held_out import HeldOut
from guda_lightning.posteriors.stopping import HeldOutStopping
from toys import quiet_trainer, shades

SCHEDULE = noise_schedule(DDPMScheduler(num_train_timesteps=100, beta_schedule="squaredcos_cap_v2"))


def test_training_ends_after_enough_tests_without_a_lower_loss() -> None:
    stopping, trainer = HeldOutStopping(patience=2), SimpleNamespace(should_stop=False, current_epoch=0)
    assert stopping.outcome is None
    best, ended = [], []
    for trainer.global_step, loss in zip(range(10, 70, 10), (3.0, 2.0, 2.5, 1.5, 1.5, 1.75), strict=True):
        best.append(stopping.tested(cast(Any, trainer), loss))
        ended.append(trainer.should_stop)
        again = HeldOutStopping(patience=2)  # an interruption after every test
        again.load_state_dict(stopping.state_dict())
        stopping = again
    assert best == [True, True, False, True, False, False]
    assert ended == [False] * 5 + [True]
    assert stopping.outcome == (
        "step 40 is kept, with a held-out loss of 1.5000; no lower held-out loss by step 60"
    )


@pytest.mark.parametrize(
    ("losses", "start", "share"),
    [
        ((3.0, 2.5, 2.0, 1.5), 4.0, 0.2),
        ((3.0, 1.5, 2.0, 1.75), 4.0, 0.0),  # what was worse than the kept step is forgotten
        ((3.0,), 4.0, 1.0),
        ((5.0, 4.5), 4.0, 1.0),  # nothing was learnt
        ((), 4.0, None),
    ],
)
def test_how_much_of_it_was_learnt_in_the_last_quarter(
    losses: tuple[float, ...], start: float, share: float | None
) -> None:
    stopping, trainer = HeldOutStopping(patience=9), SimpleNamespace(should_stop=False, current_epoch=0)
    for trainer.global_step, loss in zip(range(10, 70, 10), losses, strict=False):
        stopping.tested(cast(Any, trainer), loss)
    again = HeldOutStopping(patience=9)
    again.load_state_dict(stopping.state_dict())
    assert again.last_quarter(start) == share


def test_what_is_learnt_by_heart_is_not_kept(tmp_path: Path) -> None:
    data = shades(per_group=12)
    plan = ClassifierPlan(channels=(), width=32, steps=2000, patience=2, batch_size=24, held_out=0.3)
    module = GroupClassifier(plan, data, DiffusionModel(nn.Identity(), SCHEDULE, "epsilon"))
    # No picture tells its group: whatever is learnt of it holds for the training images alone.
    module.atom = module.atom[torch.randperm(len(module.atom), generator=torch.Generator().manual_seed(0))]
    held_out = HeldOutDataModule(data, plan.held_out, plan.batch_size, seed=0)
    trainer = quiet_trainer(tmp_path, max_steps=plan.steps)
    trainer.fit(module, datamodule=held_out)
    assert module.stopping.step < trainer.global_step < plan.steps
    samples = HeldOut.of(held_out, module.atom, SCHEDULE, False, None)
    by_heart = module.held_out_loss(samples)
    module.average.module.load_state_dict(module.kept.state_dict())
    kept = module.held_out_loss(samples)
    assert kept < by_heart
    assert abs(kept - float(module.stopping.best_score)) < 1e-5


def test_an_interruption_changes_neither_what_is_kept_nor_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("guda_lightning.posteriors.classifier.TEST_EVERY", 2)
    data, plan = shades(per_group=12), ClassifierPlan((), width=16, batch_size=6, patience=3, held_out=0.3)

    def fitted(until: int, ckpt_path: Path | None = None) -> tuple[GroupClassifier, Trainer]:
        module = GroupClassifier(plan, data, DiffusionModel(nn.Identity(), SCHEDULE, "epsilon"))
        module.atom = module.atom[torch.randperm(36, generator=torch.Generator().manual_seed(0))]
        trainer = quiet_trainer(tmp_path, max_epochs=until)
        held_out = HeldOutDataModule(data, plan.held_out, plan.batch_size, seed=0)
        trainer.fit(module, datamodule=held_out, ckpt_path=ckpt_path, weights_only=True)
        return module, trainer

    whole, trainer = fitted(100)
    assert 5 < trainer.global_step < 400
    epoch = max(1, whole.stopping.step // 4 + 1)  # after the step that is kept, and before the end
    _, interrupted = fitted(epoch)
    interrupted.save_checkpoint(tmp_path / "amid.ckpt")
    again, resumed = fitted(100, tmp_path / "amid.ckpt")
    assert resumed.global_step == trainer.global_step > interrupted.global_step >= whole.stopping.step
    assert again.stopping.outcome == whole.stopping.outcome
    for name, weights in weights_of(whole).items():
        assert torch.equal(weights, weights_of(again)[name]), name
