"""Every noise scheduler of diffusers works in all stages or is refused at fit, as docs/models.md says."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path
from typing import Any

import diffusers
import diffusers.schedulers
import pytest
import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from guda_lightning import DiffusionModule, FullModel, GudaTrainer, ScoreTable, Scoring
from guda_lightning.diffusion.schedulers import UNSUPPORTED, noise_schedule, prediction_type
from guda_lightning.errors import ConfigError
from guda_lightning.functional.prediction import add_noise
from toys import message, shades, tiny_unet

WORKING = {
    "CogVideoXDDIMScheduler",
    "CogVideoXDPMScheduler",
    "DDIMInverseScheduler",
    "DDIMParallelScheduler",
    "DDIMScheduler",
    "DDPMParallelScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepInverseScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSDEScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "FlowMatchLCMScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "SASolverScheduler",
    "TCDScheduler",
    "UnCLIPScheduler",
    "UniPCMultistepScheduler",
}
NEEDS_TORCHSDE = {"DPMSolverSDEScheduler", "CosineDPMSolverMultistepScheduler"}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "AmusedScheduler": {"mask_token_id": 0},
    "RFD4ProteinaScheduler": {"schedule_mode": "log", "noise_mode": "tan", "tsr_k": 1.0, "tsr_sigma": 1.0},
    "VQDiffusionScheduler": {"num_vec_classes": 4},
}
STEPS = 20

# diffusers 0.42 with NumPy 2, in the constructors of LMS, Heun and KDPM2.
pytestmark = pytest.mark.filterwarnings("ignore:__array_?_?:DeprecationWarning")


def _kinds() -> dict[str, Any]:
    """Every scheduler class of the installed diffusers; None for one that needs another library."""
    kinds: dict[str, Any] = dict.fromkeys(name for name in dir(diffusers) if name.endswith("Scheduler"))
    for found in pkgutil.walk_packages(diffusers.schedulers.__path__, "diffusers.schedulers."):
        try:
            module = importlib.import_module(found.name)
        except ModuleNotFoundError:
            continue
        for name, kind in vars(module).items():
            if isinstance(kind, type) and issubclass(kind, SchedulerMixin) and kind is not SchedulerMixin:
                kinds[name] = kind
    return kinds


KINDS = _kinds()


def _built(name: str, **arguments: Any) -> Any:
    if KINDS[name] is None:
        pytest.skip("torchsde is not installed: `make install` installs it, or pip install torchsde")
    return KINDS[name](**arguments)


def test_the_documentation_names_every_scheduler_and_why_it_is_refused() -> None:
    text = (Path(__file__).parents[2] / "docs" / "models.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `(\w+Scheduler)` \| (.+) \|$", text, re.MULTILINE))
    assert rows.keys() == KINDS.keys()
    assert {name for name, said in rows.items() if said.startswith("works")} == WORKING
    assert {name: said for name, said in rows.items() if name not in WORKING} == {
        name: f"refused: {reason}" for name, reason in UNSUPPORTED.items()
    }
    assert {name for name, kind in KINDS.items() if kind is None} <= NEEDS_TORCHSDE


@pytest.mark.parametrize("name", sorted({*KINDS} - WORKING))
def test_other_schedulers_are_refused_before_training(name: str) -> None:
    scheduler = _built(name, **ARGUMENTS.get(name, {}))
    with pytest.raises(ConfigError, match=f"^models of {name} are not supported\n  found: ") as caught:
        FullModel.of(DiffusionModule(tiny_unet(), scheduler))
    assert caught.value.found == UNSUPPORTED[name]


@pytest.mark.parametrize("name", sorted(WORKING - {"DDIMInverseScheduler"}))  # which adds no noise
def test_the_noise_is_that_of_the_scheduler(name: str) -> None:
    x0, noise = torch.randn(2, 1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    schedule = noise_schedule(_built(name, num_train_timesteps=STEPS))
    compared = 0
    for timestep in (0, 7, STEPS - 1):
        scheduler = _built(name, num_train_timesteps=STEPS)  # a fresh one: they remember where they are
        ours = add_noise(x0, noise, *schedule.at(torch.tensor([timestep]), like=x0))
        if "FlowMatch" in name:
            theirs = scheduler.scale_noise(x0, schedule.model_timesteps[[timestep]], noise)
        else:
            if name not in ("LCMScheduler", "TCDScheduler"):  # whose steps of inference are others
                scheduler.set_timesteps(STEPS)
            given = torch.as_tensor(scheduler.timesteps)
            at = given[(given - timestep).abs().argmin()]
            if float(at) != timestep or (name, timestep) == ("DPMSolverMultistepInverseScheduler", STEPS - 1):
                continue  # between two timesteps of training, or the inversion's own last one
            theirs = scheduler.add_noise(x0, noise, at[None])
            theirs = scheduler.scale_model_input(theirs, at)
        assert torch.allclose(ours, theirs, atol=1e-5)
        compared += 1
    assert compared >= 2


# Each of the others differs in its solver alone from one of these, or from DDPM's or the flow's, which have
# tests of their own below; its noise is tested above.
USUAL = {
    "DPMSolverMultistepScheduler",
    "EulerDiscreteScheduler",
    "LCMScheduler",
    "PNDMScheduler",
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in USUAL else pytest.mark.torture) for name in sorted(WORKING)],
)
def test_every_stage(name: str, tmp_path: Path) -> None:
    scores = every_stage(tmp_path, lambda: _built(name, num_train_timesteps=STEPS))
    assert scores.shape == (2, 1)
    assert scores.isfinite().all()


def every_stage(folder: Path, scheduler: Any, **network: Any) -> torch.Tensor:
    """The scores of two samples and a group, after a training of one step and an unlearning of one."""
    torch.set_num_threads(1)
    quiet: dict[str, Any] = dict.fromkeys(("enable_progress_bar", "enable_model_summary", "logger"), False)
    trainer = GudaTrainer(
        default_root_dir=folder, accelerator="cpu", devices=1, max_steps=1, num_sanity_val_steps=0, **quiet
    )
    data = shades(per_group=4)

    def module() -> DiffusionModule:
        return DiffusionModule(tiny_unet(**network), scheduler())

    trainer.fit_full(module(), data)
    trainer.unlearn(module(), data, steps=1, groups=["dark"])
    trainer.sample(module(), data, num=2, steps=2)
    scoring = Scoring(strata=2, draws=1)
    (table,) = trainer.attribute(module(), data, folder / "queries", "retrack", scoring, groups=["dark"])
    return ScoreTable.load(table).select(weighting="elbo").matrix()


@pytest.mark.parametrize(
    ("scheduler", "found", "fix"),
    [
        (
            diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
            "invert_sigmas=True: the network's time runs from noise to image",
            "leave invert_sigmas out, and give the network 1 - t in a module around it: docs/models.md",
        ),
        (
            diffusers.EulerDiscreteScheduler(timestep_type="continuous", prediction_type="v_prediction"),
            "timestep_type='continuous': the network takes log σ / 4 in place of a timestep",
            "set timestep_type to discrete, or train with diffusers.DDPMScheduler",
        ),
        (
            diffusers.UniPCMultistepScheduler(use_flow_sigmas=True),
            "use_flow_sigmas=True, prediction_type='epsilon'",
            "for a flow set use_flow_sigmas to true and prediction_type to flow_prediction; else neither",
        ),
    ],
    ids=["inverted", "continuous", "half a flow"],
)
def test_settings_that_change_what_the_network_sees_are_refused(scheduler: Any, found: str, fix: str) -> None:
    expected = message(
        f"{type(scheduler).__name__} is not supported as it is configured",
        found,
        "a scheduler of the DDPM or the FlowMatch kind: the table of docs/models.md",
        fix,
    )
    with pytest.raises(ConfigError, match=expected):
        FullModel.of(DiffusionModule(tiny_unet(), scheduler))


def test_a_flow_has_the_arguments_that_it_got_by_position() -> None:
    by_position = diffusers.FlowMatchEulerDiscreteScheduler(20, 3.0)
    by_name = diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=20, shift=3.0)
    schedule, s = noise_schedule(by_position), torch.linspace(1, 0.05, 20, dtype=torch.float64)
    torch.testing.assert_close(schedule.sigma.flip(0), 3 * s / (1 + 2 * s), rtol=0, atol=1e-6)
    assert schedule.hash == noise_schedule(by_name).hash


FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}


@pytest.mark.parametrize(
    "name",
    [
        "DEISMultistepScheduler",
        "DPMSolverMultistepScheduler",
        "DPMSolverSinglestepScheduler",
        "SASolverScheduler",
        "UniPCMultistepScheduler",
    ],
)
def test_a_solver_of_a_flow_stands_for_the_flow(name: str) -> None:
    scheduler = KINDS[name](**FLOW)
    full = FullModel.of(DiffusionModule(tiny_unet(), scheduler))
    assert (type(full.scheduler), full.scheduler.shift) == (diffusers.FlowMatchEulerDiscreteScheduler, 3.0)
    assert full.model.prediction == "flow"
    s = torch.linspace(1, 0.001, 1000, dtype=torch.float64)
    torch.testing.assert_close(full.model.schedule.sigma.flip(0), 3 * s / (1 + 2 * s), rtol=0, atol=1e-4)
    scheduler.set_timesteps(10)
    assert torch.allclose(scheduler.timesteps / 1000, scheduler.sigmas[:-1], atol=2e-3)
    if name in ("DEISMultistepScheduler", "SASolverScheduler"):  # not exact on a straight path
        return
    # The flow's velocity leads the solver from noise to the image.
    x0, noise = torch.randn(2, 1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    x_t = noise
    for timestep in scheduler.timesteps:
        x_t = scheduler.step(noise - x0, timestep, x_t).prev_sample
    assert torch.allclose(x_t, x0, atol=3e-3)


def test_an_unknown_prediction_is_refused() -> None:
    expected = message(
        "the noise scheduler's prediction type is unknown",
        "score in the scheduler's configuration",
        "epsilon, v_prediction, sample",
        "set prediction_type of the scheduler to what the network predicts",
    )
    with pytest.raises(ConfigError, match=expected):
        prediction_type(diffusers.DDPMScheduler(prediction_type="score"))


@pytest.mark.parametrize("variance", ["learned", "learned_range"])
def test_every_stage_with_a_learned_variance(
    variance: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def scheduler() -> Any:
        return diffusers.DDPMScheduler(num_train_timesteps=STEPS, variance_type=variance)

    scores = every_stage(tmp_path, scheduler, out_channels=2)
    assert scores.isfinite().all()
    assert (
        "fit: the variance that the network predicts is not trained, and not sampled with\n"
        in capsys.readouterr().out
    )


def test_every_stage_with_dynamic_shifting(tmp_path: Path) -> None:
    def scheduler(**settings: Any) -> Any:
        return diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=STEPS, **settings)

    found = every_stage(tmp_path / "dynamic", lambda: scheduler(use_dynamic_shifting=True, shift=3.0))
    assert torch.equal(found, every_stage(tmp_path / "plain", scheduler))
