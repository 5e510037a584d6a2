"""The real denoising-diffusion-pytorch and MONAI, as their users train with them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from diffusers import DDPMScheduler

from guda_lightning import FullModel, ScoreTable
from guda_lightning.cli.main import main
from guda_lightning.diffusion import CallAs, DiffusionModel, diffusion_model, open_schedule, sampler
from guda_lightning.diffusion.labels import refuse_labels
from guda_lightning.diffusion.schedulers import noise_schedule
from guda_lightning.errors import ConfigError
from guda_lightning.functional.prediction import add_noise

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"
INSTALL = "is not installed: `make install` installs it, or pip install 'guda-lightning[foreign]'"
X = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
NOISE = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
T = torch.tensor([0, 20, 49])

# The examples have no validation.
pytestmark = pytest.mark.filterwarnings("ignore:You passed in a `val_dataloader`")


def _imported(name: str) -> ModuleType:
    return pytest.importorskip(name, reason=f"{name} {INSTALL}")


@pytest.fixture
def examples(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    torch.set_num_threads(1)
    yield


@pytest.fixture
def lucidrains(monkeypatch: pytest.MonkeyPatch, examples: None) -> ModuleType:
    """The example's module; torchvision, which only the library's own data set uses, may be missing."""
    with monkeypatch.context() as during_import:
        if "torchvision" not in sys.modules:
            stand_in: Any = ModuleType("torchvision")
            stand_in.transforms, stand_in.utils = ModuleType("transforms"), ModuleType("utils")
            during_import.setitem(sys.modules, "torchvision", stand_in)
        _imported("denoising_diffusion_pytorch")
    return importlib.import_module("lucidrains_module")


@pytest.fixture
def monai(examples: None) -> ModuleType:
    _imported("monai")
    return importlib.import_module("monai_module")


@pytest.mark.parametrize("objective", ["pred_noise", "pred_x0", "pred_v"])
def test_the_diffusion_of_lucidrains_is_taken_as_it_is(lucidrains: ModuleType, objective: str) -> None:
    module = lucidrains.DenoisingDiffusion(dim=8, timesteps=50, objective=objective).eval()
    diffusion = module.diffusion
    full = FullModel.of(module, "diffusion.model", "diffusion")
    assert full.model.denoiser is diffusion.model
    x_t = diffusion.q_sample(X, T, NOISE)
    assert torch.allclose(add_noise(X, NOISE, *full.model.schedule.at(T, X)), x_t, atol=1e-6)
    with torch.no_grad():
        predicted, _ = diffusion.model_predictions(x_t, T)
        assert torch.allclose(full.model.predicted_noise(x_t, T), predicted, rtol=1e-4, atol=1e-4)

        # One step of its own sampling is one of ours, but for the noise that is added.
        walker = sampler(full.model, full.scheduler, 50)
        mean, _, _, _ = diffusion.p_mean_variance(X, torch.full((3,), 30))
        output = full.model.output(X, torch.full((3,), 30))
        same = [torch.Generator().manual_seed(2) for _ in range(2)]
        step = walker.step(output, torch.tensor(30), X, generator=same[0]).prev_sample
        again = walker.step(output, torch.tensor(30), X, generator=same[1]).prev_sample
        assert torch.equal(step, again)
        noise = torch.randn(X.shape, generator=torch.Generator().manual_seed(2))
        assert torch.allclose(step, mean + diffusion.posterior_variance[30].sqrt() * noise, atol=1e-5)


def test_the_adapter_keeps_the_labels_of_lucidrains(lucidrains: ModuleType) -> None:
    guidance = importlib.import_module("denoising_diffusion_pytorch.classifier_free_guidance")
    network = guidance.Unet(dim=8, dim_mults=(1, 2), channels=1, num_classes=3)
    diffusion = guidance.GaussianDiffusion(network, image_size=8, timesteps=50)
    labels = torch.tensor([0, 1, 2])
    names = {"sample": "x", "timesteps": "time", "class_labels": "classes"}
    adapter = CallAs(network, **names, arguments={"cond_drop_prob": 0.0}).eval()
    model = diffusion_model(torch.nn.ModuleDict({"net": adapter, "diffusion": diffusion}), "net", "diffusion")
    with torch.no_grad():
        assert torch.equal(model.output(X, T, labels), network(X, T, labels, cond_drop_prob=0.0))
    unwrapped = diffusion_model(diffusion, "model", ".")
    with pytest.raises(ConfigError, match=r"sample='x', timesteps='time', class_labels='classes'\)$"):
        unwrapped.output(X, T, labels)


def test_the_labels_of_monai_must_fit_the_data(monai: ModuleType) -> None:
    def network(classes: int | None) -> Any:
        return monai.DiffusionModelUNet(
            spatial_dims=2,
            in_channels=1,
            out_channels=1,
            channels=(8,),
            attention_levels=(False,),
            num_res_blocks=1,
            norm_num_groups=4,
            num_class_embeds=classes,
        ).eval()

    schedule, labels = noise_schedule(DDPMScheduler(50)), torch.tensor([0, 1, 2])
    conditional = DiffusionModel(network(3), schedule, "epsilon", conditional=True)
    refuse_labels(conditional, 3)
    with torch.no_grad():
        assert torch.equal(conditional.output(X, T, labels), conditional.denoiser(X, T, class_labels=labels))
    for classes, problem in ((2, "has too few class embeddings"), (None, "has no class embeddings")):
        with pytest.raises(ConfigError, match=f"^DiffusionModelUNet {problem}\n"):
            refuse_labels(replace(conditional, denoiser=network(classes)), 3)


@pytest.mark.parametrize("name", ["DDPMScheduler", "DDIMScheduler", "PNDMScheduler"])
@pytest.mark.parametrize("schedule", ["linear_beta", "scaled_linear_beta", "sigmoid_beta", "cosine"])
def test_every_noise_schedule_of_monai(monai: ModuleType, name: str, schedule: str) -> None:
    kind = getattr(importlib.import_module("monai.networks.schedulers"), name)
    scheduler = kind(num_train_timesteps=50, schedule=schedule)
    ours = add_noise(X, NOISE, *noise_schedule(scheduler).at(T, X))
    assert torch.allclose(ours, scheduler.add_noise(X, NOISE, T), atol=1e-6)


def test_the_rectified_flow_of_monai_is_refused(monai: ModuleType) -> None:
    scheduler = importlib.import_module("monai.networks.schedulers").RFlowScheduler(num_train_timesteps=50)
    with pytest.raises(ConfigError, match=r"^RFlowScheduler is no noise scheduler of a known kind\n"):
        noise_schedule(scheduler)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_the_scheduler_of_monai_is_taken_as_it_is(monai: ModuleType, prediction: str) -> None:
    module = monai.MedicalDiffusion(width=8, timesteps=50).eval()
    module.scheduler.prediction_type = prediction
    before = FullModel.of(module, "unet", "scheduler")
    noised = module.scheduler.add_noise(X, NOISE, T)
    assert torch.allclose(add_noise(X, NOISE, *before.model.schedule.at(T, X)), noised, atol=1e-6)
    assert before.model.prediction == prediction
    # It keeps its noise levels in the precision of what it noised last.
    module.scheduler.add_noise(X.half(), NOISE.half(), T)
    assert module.scheduler.alphas_cumprod.dtype == torch.float16
    assert FullModel.of(module, "unet", "scheduler").model.schedule.hash == before.model.schedule.hash


def test_every_stage_with_lucidrains(lucidrains: ModuleType, tmp_path: Path) -> None:
    module = {"class_path": "lucidrains_module.DenoisingDiffusion", "init_args": {"dim": 8, "timesteps": 50}}
    run = _every_stage(tmp_path, module, denoiser="diffusion.model", scheduler="diffusion")
    expected = lucidrains.DenoisingDiffusion(timesteps=50).diffusion.alphas_cumprod
    assert torch.allclose(open_schedule(run / "full").gamma.square().float(), expected, atol=1e-7)


def test_every_stage_with_monai(monai: ModuleType, tmp_path: Path) -> None:
    module = {"class_path": "monai_module.MedicalDiffusion", "init_args": {"width": 8, "timesteps": 50}}
    run = _every_stage(tmp_path, module, denoiser="unet", scheduler="scheduler")
    expected = DDPMScheduler(
        num_train_timesteps=50, beta_schedule="scaled_linear", beta_start=1e-4
    ).alphas_cumprod
    assert torch.allclose(open_schedule(run / "full").gamma.square().float(), expected, atol=1e-6)


def test_the_configuration_of_the_documentation(monai: ModuleType, tmp_path: Path) -> None:
    text = (EXAMPLES.parent / "models.md").read_text("utf-8")
    (block,) = [part for part in text.split("```") if part.startswith("yaml") and "monai.networks" in part]
    model = yaml.safe_load(block.removeprefix("yaml"))["model"]
    assert main(["fit", "-c", _configuration(tmp_path, model)]) == 0
    assert len(open_schedule(tmp_path / "run" / "full")) == 1000


def _configuration(folder: Path, model: dict[str, Any], **trainer: Any) -> str:
    """A configuration of one step with three gray classes, written to a file."""
    source = {"class_path": "toys.Shades", "init_args": {"per_group": 8}}
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    cpu = {"max_steps": 1, "accelerator": "cpu", "devices": 1, "num_sanity_val_steps": 0}
    data = {"class_path": "guda_lightning.GroupDataModule", "init_args": {"source": source, "batch_size": 8}}
    config = {
        "run": str(folder / "run"),
        "model": model,
        "data": data,
        "trainer": {**quiet, **trainer, **cpu},
    }
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(config))
    return str(path)


def _every_stage(folder: Path, model: dict[str, Any], **trainer: Any) -> Path:
    """The run folder after all stages of the command line."""
    path = _configuration(folder, model, **trainer)
    assert main(["fit", "-c", path]) == 0
    assert main(["unlearn", "-c", path, "--steps", "1", "--groups", "dark"]) == 0
    assert main(["sample", "-c", path, "--num", "2", "--steps", "2"]) == 0
    scoring = ["--scoring.strata", "2", "--scoring.draws", "1"]
    assert main(["attribute", "-c", path, "--groups", "dark", *scoring]) == 0
    table = ScoreTable.load(folder / "run" / "scores" / "retrack-0.parquet")
    scores = table.select(weighting="elbo").matrix()
    assert scores.shape == (2, 1)
    assert scores.isfinite().all()
    return folder / "run"
