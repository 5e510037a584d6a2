"""Everything runs on CUDA unchanged; without a GPU, on a second device that refuses what CUDA refuses.

On the second device random numbers are those of the CPU, and whole trainings are compared. On CUDA they are
others, and what follows from the same weights and noise is compared.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from safetensors.torch import load_file

from guda_lightning import CounterfactualStore, ELBOAttributionCallback, ScoreTable
from guda_lightning.attribution import squared_errors
from guda_lightning.cli.main import main
from guda_lightning.data import Digits, GroupDataModule, load_queries
from guda_lightning.diffusion import DiffusionModule, FullModel, open_full
from guda_lightning.posteriors import PosteriorStore
from guda_lightning.scores import Scoring
from second_device import second_device
from toys import gray_queries, quiet_trainer

CONF = Path(__file__).parent / "conf"
WEIGHTS = "diffusion_pytorch_model.safetensors"


@dataclass(frozen=True)
class Place:
    """Where a test runs.

    Attributes:
        name: ``cpu``, ``second`` or ``cuda``.
        options: Of a stage's command line.
        trainer: Arguments of a trainer.
        tolerance: Of what follows from the same weights and noise, relative to the largest.
    """

    name: str
    options: tuple[str, ...]
    trainer: dict[str, Any] = field(default_factory=dict)
    tolerance: float = 1e-4


CPU = Place("cpu", ("--trainer.accelerator", "cpu"))
CUDA = Place("cuda", ("--trainer.accelerator", "gpu"), {"accelerator": "gpu"}, tolerance=1e-2)
SECOND = Place(
    "second",
    ("--trainer.strategy", "second", "--trainer.resume_every_n_epochs", "1000"),
    {"strategy": "second", "inference_mode": False},
)
ON_CUDA = pytest.param(CUDA, id="cuda", marks=pytest.mark.gpu)


@pytest.fixture(params=[pytest.param(SECOND, id="second", marks=pytest.mark.torture), ON_CUDA])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A device other than the CPU."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # to compare with the CPU
    with second_device() if request.param is SECOND else nullcontext():
        yield request.param


def run(stage: str, folder: Path, place: Place, *options: str) -> None:
    files = ["digits.yaml", *([f"{stage}.yaml"] if (CONF / f"{stage}.yaml").is_file() else [])]
    configs = [part for file in files for part in ("-c", str(CONF / file))]
    assert main([stage, *configs, "--run", str(folder), *place.options, *options]) == 0


def close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float) -> bool:
    assert ours.device.type == theirs.device.type == "cpu"
    return bool(((ours - theirs).abs() <= tolerance * theirs.abs().max()).all())


def scores(folder: Path, name: str) -> torch.Tensor:
    return ScoreTable.load(folder / "scores" / f"{name}.parquet").select(weighting="elbo").matrix()


def test_every_stage_trains_and_scores_there(place: Place, finished_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run("fit", folder, place)
    run("sample", folder, place)
    run("unlearn", folder, place, "--groups", "3")
    run("attribute", folder, place, "--operator", "retrack", "--groups", "3")
    run("guide", folder, place)
    run("attribute", folder, place, "--operator", "guidance")
    run("sample", folder, place, "--without", "3+7", "--operator", "guidance", "--num", "1")
    guided = ("--objective", "Guided", "--objective.init_args.store", str(folder / "store"), "--steps", "1")
    run("unlearn", folder, place, *guided, "--groups", "3")

    records = CounterfactualStore(folder / "store").records()
    assert {record.operator: record.steps for record in records} == {"retrack": 4, "guided": 1}
    steps = [(record.kind, record.steps) for record in PosteriorStore(folder / "store").records()]
    assert steps == [("classifier", 12), ("classifier", 12), ("guidance", 0), ("patch_kernel", 0)]
    assert all(bool(value.isfinite().all()) for value in load_file(folder / "full/unet" / WEIGHTS).values())
    assert len(list((folder / "without" / "guidance").rglob("*.png"))) == 1
    made = {name: scores(folder, f"{name}-0") for name in ("retrack", "guidance")}
    assert all(bool(table.isfinite().all() and table.abs().max() > 0) for table in made.values())
    if place is SECOND:  # of a model, queries and a counterfactual that were all made there
        assert close(made["retrack"], scores(finished_run, "retrack-0")[:, 3:4], 1e-3)


def test_scores_and_samples_are_those_of_the_cpu(place: Place, finished_run: Path) -> None:
    some = ("--operator", "retrack", "--groups", "3")
    theirs = scores(finished_run, "retrack-0")[:, 3:4]
    drawn = load_queries(finished_run / "queries", (1, 8, 8)).images
    run("guide", finished_run, CPU)
    run("attribute", finished_run, CPU, "--operator", "guidance")
    by_guidance = scores(finished_run, "guidance-0")
    for made in ("scores", "queries"):
        (finished_run / made).rename(finished_run / f"cpu-{made}")
    run("sample", finished_run, place)
    ours = load_queries(finished_run / "queries", (1, 8, 8)).images
    assert close(ours, drawn, 2 * place.tolerance + 1 / 127)  # one of 256 levels
    shutil.rmtree(finished_run / "queries")
    (finished_run / "cpu-queries").rename(finished_run / "queries")
    run("attribute", finished_run, place, *some)
    run("attribute", finished_run, place, "--operator", "guidance")
    assert close(scores(finished_run, "retrack-0"), theirs, place.tolerance)
    assert close(scores(finished_run, "guidance-0"), by_guidance, place.tolerance)


def opened(folder: Path) -> DiffusionModule:
    """The full model of a run as a module."""
    full = open_full(folder / "full", LightningModule())
    return DiffusionModule(full.model.denoiser, full.scheduler)


def test_the_callback_scores_there_as_on_the_cpu(place: Place, finished_run: Path, tmp_path: Path) -> None:
    def validated(**arguments: Any) -> torch.Tensor:
        callback = ELBOAttributionCallback(
            finished_run / "store", "retrack", scoring=Scoring(strata=4, draws=1), max_queries=6
        )
        data = GroupDataModule(Digits(), batch_size=16, limit=64, probe_per_group=1)
        trainer = quiet_trainer(tmp_path, callbacks=[callback], **arguments)
        trainer.validate(opened(finished_run), data, verbose=False)
        assert callback.table is not None
        return callback.table.matrix()

    theirs = validated()
    assert close(validated(**place.trainer), theirs, place.tolerance)


@pytest.mark.parametrize("place", [pytest.param(CPU, id="cpu"), ON_CUDA])
def test_bf16_is_finite_and_close(place: Place, finished_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    half = ("--trainer.precision", "bf16-mixed")  # which CPUs emulate, slowly
    run("fit", folder, place, *half, "--trainer.max_steps", "2")
    run("unlearn", folder, place, *half, "--groups", "3", "--steps", "1")
    options = ["--operator", "retrack", "--groups", "3", "--queries", str(finished_run / "queries")]
    run("attribute", folder, place, *options, "--scoring.precision", "bf16")
    (path,) = (folder / "scores").glob("*.parquet")
    table = ScoreTable.load(path)
    assert table.record.scoring.precision == "bf16"
    assert bool(table.select(weighting="elbo").matrix().isfinite().all())

    device = "cuda" if place is CUDA else "cpu"
    model = FullModel.of(opened(finished_run)).model
    model.denoiser.to(device)
    queries = load_queries(finished_run / "queries", (1, 8, 8))
    exact, rounded = (
        squared_errors(model, queries, Scoring(strata=10, draws=1, precision=precision), device=device)[0]
        for precision in ("fp32", "bf16")
    )
    assert not torch.equal(exact, rounded)
    assert bool(((rounded - exact).abs() <= 0.02 * exact).all())  # 8 bits of bf16 round to .004


@pytest.mark.gpu
def test_fsdp2_on_all_gpus_trains_what_one_trains(tmp_path: Path) -> None:
    """What tests/test_several_processes.py asks of every pair of strategies on CPUs."""
    devices = min(2, torch.cuda.device_count())
    alone, spread = tmp_path / "alone", tmp_path / "spread"
    run("fit", alone, CUDA)
    command = [sys.executable, "-m", "guda_lightning", "fit", "-c", f"{CONF}/digits.yaml", *CUDA.options]
    shared = ["--trainer.devices", str(devices), "--data.init_args.batch_size", str(16 // devices)]
    strategy = ["--trainer.strategy", "fsdp2", "--run", str(spread)]
    ended = subprocess.run([*command, *shared, *strategy], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    records = [json.loads((made / "full" / "record.json").read_text()) for made in (spread, alone)]
    assert [record["steps"] for record in records] == [12, 12]
    # Errors rather than weights: Adam makes steps of the smallest gradients, whose signs are noise.
    ours, theirs = (
        squared_errors(FullModel.of(opened(made)).model, gray_queries("a", "b"), Scoring(strata=10, draws=1))[
            0
        ]
        for made in (spread, alone)
    )
    assert bool(((ours - theirs).abs() <= 0.02 * theirs).all())
