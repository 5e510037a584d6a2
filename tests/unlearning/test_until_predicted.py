"""Unlearning that ends where a group is forgotten as far as the posterior predicts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from guda_lightning import AttributionContext
from guda_lightning.attribution.forget_target import ForgetTarget
from guda_lightning.attribution.probing import Probes, posterior_in, probing
from guda_lightning.attribution.scoring import squared_errors
from guda_lightning.cli.main import main
from guda_lightning.diffusion import weights_hash
from guda_lightning.errors import StoreError
from guda_lightning.functional.elbo import elbo
from guda_lightning.makers.until_predicted import UntilPredicted
from guda_lightning.scores import Scoring
from guda_lightning.unlearning import NegGrad, UnlearnModule
from toys import message, quiet_trainer, save_guidance, shades, tiny_full

CONF = Path(__file__).parents[1] / "conf"
STEPS = 60

pytestmark = [
    pytest.mark.filterwarnings("ignore:Found .* module.s. in eval mode at the start of training:UserWarning"),
    pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller than:UserWarning"),
    pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated:FutureWarning"),
]


def test_an_unlearning_stops_at_the_predicted_size(tmp_path: Path) -> None:
    full, data = tiny_full(), shades()
    model = full.model
    probes, scoring = Probes.of(data, ["bright"], False), probing(model.schedule, Scoring())
    samples = probes.samples.take(probes.own[:, 0].nonzero().flatten().tolist())
    errors, timesteps = squared_errors(model, samples, scoring)
    loss = -float(elbo(errors, timesteps, scoring.plan(model.schedule), model.schedule, "elbo").sum())
    target = ForgetTarget(samples, scoring, loss, predicted=0.1 * loss)
    assert target.reached(model, "cpu") == pytest.approx(0, abs=1e-9)

    def unlearned(steps: int, *callbacks: UntilPredicted) -> UnlearnModule:
        module = UnlearnModule(
            full, NegGrad(forget_weight=1.0), ["bright"], lambda p: torch.optim.SGD(p, lr=0.003)
        )
        trainer = quiet_trainer(tmp_path, max_steps=steps, limit_val_batches=0, callbacks=[*callbacks])
        trainer.fit(module, datamodule=data.unlearning(["bright"]))
        return module

    stop = UntilPredicted(target, STEPS)
    module = unlearned(STEPS, stop)
    steps = module.trainer.global_step
    assert steps % stop.every == 0
    assert stop.every < steps < STEPS
    reached = target.reached(module.student, "cpu")
    assert reached >= 1
    assert stop.stopping_reason_message == f"forgot {reached:.2g} times as far as predicted"
    assert target.reached(unlearned(steps - stop.every).student, "cpu") < 1  # the check before
    same = weights_hash(unlearned(steps).denoiser.state_dict())
    assert same == weights_hash(module.denoiser.state_dict())  # looking changes nothing


def test_the_target_is_what_guidance_loses_and_needs_a_posterior(tmp_path: Path) -> None:
    full, data = tiny_full(), shades()
    context = AttributionContext(full, data, store=tmp_path / "store")
    assert posterior_in(context, 0) is None
    expected = message(
        f"there is no posterior in {tmp_path / 'store'} to unlearn until its prediction",
        "none of this full model, noise schedule and groups",
        "a posterior of these groups",
        "run guda guide first, or leave out --until",
    )
    with pytest.raises(StoreError, match=expected):
        ForgetTarget.of(context, data, "bright", 0)
    save_guidance(tmp_path / "store", full, data)
    found = posterior_in(context, 7)
    assert found is not None
    assert found.seed == 0
    other = AttributionContext(tiny_full(1), data, store=tmp_path / "store")
    assert posterior_in(other, 0) is None


def test_the_command_refuses_it_without_a_posterior_before_any_work(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["unlearn", "-c", f"{CONF}/digits.yaml", "-c", f"{CONF}/unlearn.yaml", "--until", "predicted"]
    before = set(finished_run.rglob("*"))
    assert main([*arguments, "--run", str(finished_run)]) == 2
    assert f"there is no posterior in {finished_run / 'store'} to unlearn" in capsys.readouterr().err
    assert set(finished_run.rglob("*")) == before
