"""Networks and noise schedulers of any kind in a configuration: taken in all stages, or refused at fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from guda_lightning import ScoreTable
from guda_lightning.cli.main import main
from guda_lightning.diffusion import open_schedule
from guda_lightning.storage.files import read_json
from guda_lightning.storage.sealed import write_json

UNET = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "layers_per_block": 1,
    "block_out_channels": [8],
    "down_block_types": ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"],
    "norm_num_groups": 4,
}
DENOISER = {"class_path": "diffusers.UNet2DModel", "init_args": UNET}
SCORING = ("--scoring.strata", "2", "--scoring.draws", "1")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def config(folder: Path, **model: Any) -> str:
    """A configuration of one step with three gray classes, written to a file."""
    scheduler = {"class_path": "diffusers.DDPMScheduler", "init_args": {"num_train_timesteps": 20}}
    source = {"class_path": "toys.Shades", "init_args": {"per_group": 4}}
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    value = {
        "run": str(folder / "run"),
        "model": {
            "class_path": "guda_lightning.DiffusionModule",
            "init_args": {"denoiser": DENOISER, "scheduler": scheduler, **model},
        },
        "data": {
            "class_path": "guda_lightning.GroupDataModule",
            "init_args": {"source": source, "batch_size": 4},
        },
        "trainer": {**quiet, "max_steps": 1, "accelerator": "cpu", "devices": 1, "num_sanity_val_steps": 0},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(value))
    return str(path)


def every_stage(folder: Path, path: str) -> None:
    assert main(["fit", "-c", path]) == 0
    assert main(["unlearn", "-c", path, "--steps", "1", "--groups", "dark"]) == 0
    assert main(["sample", "-c", path, "--num", "4", "--steps", "2"]) == 0
    assert main(["attribute", "-c", path, "--groups", "dark", *SCORING]) == 0
    table = ScoreTable.load(folder / "run" / "scores" / "retrack-0.parquet")
    assert table.select(weighting="elbo").matrix().isfinite().all()


def test_a_configuration_may_hold_infinities(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kind = "diffusers.DPMSolverMultistepScheduler"
    scheduler = {"class_path": kind, "init_args": {"num_train_timesteps": 20}}
    path = config(tmp_path, scheduler=scheduler)
    assert main(["fit", "-c", path]) == 0
    assert main(["sample", "-c", path, "--num", "2", "--steps", "2"]) == 0
    full = tmp_path / "run" / "full"
    recorded = read_json(full / "record.json")["config"]["model"]["init_args"]["scheduler"]["init_args"]
    assert recorded["lambda_min_clipped"] == "-Infinity"
    assert len(open_schedule(full)) == 20
    capsys.readouterr()
    assert main(["fit", "-c", path, "--trainer.num_sanity_val_steps", "1"]) == 0
    assert capsys.readouterr().out == f"fit: {full} is complete, skipped\n"


def test_a_network_that_is_called_otherwise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network: dict[str, Any] = {"class_path": "toys.TimeFirst"}
    assert main(["fit", "-c", config(tmp_path, denoiser=network)]) == 2
    assert capsys.readouterr().err == (
        "error: TimeFirst is called with other arguments than a denoiser\n"
        "  found:    forward(t, x, y=None): its first argument is t\n"
        "  expected: forward(x_t, timesteps), and class_labels=... where the model is conditional "
        "on classes\n"
        "  fix:      wrap it: guda_lightning.diffusion.CallAs"
        "(network, sample='x', timesteps='t', class_labels='y')\n"
    )
    names = {"sample": "x", "timesteps": "t", "class_labels": "y", "output": "pred"}
    adapter = {"class_path": "guda_lightning.diffusion.CallAs", "init_args": {"network": network, **names}}
    every_stage(tmp_path, config(tmp_path, denoiser=adapter, ema_decay=0.9))


@pytest.mark.parametrize(
    ("embeddings", "conditional", "error"),
    [
        (
            2,
            True,
            "error: UNet2DModel has too few class embeddings\n"
            "  found:    2 for the 3 classes of the data\n"
            "  expected: at least 3, as the model is conditional\n"
            "  fix:      set num_class_embeds of the network to 3, or conditional of the model to false\n",
        ),
        (
            None,
            True,
            "error: UNet2DModel has no class embeddings\n"
            "  found:    none for the 3 classes of the data\n"
            "  expected: at least 3, as the model is conditional\n"
            "  fix:      set num_class_embeds of the network to 3, or conditional of the model to false\n",
        ),
        (
            5,
            False,
            "error: UNet2DModel needs class labels, which an unconditional model does not give\n"
            "  found:    5 class embeddings, and conditional=False\n"
            "  expected: both, or neither\n"
            "  fix:      set model.init_args.conditional (with a module of your own, trainer.conditional, in "
            "Python conditional of FullModel.of) to true, or leave num_class_embeds of the network out\n",
        ),
    ],
    ids=["few", "none", "unconditional"],
)
def test_class_embeddings_must_fit_the_data(
    embeddings: int | None,
    conditional: bool,
    error: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    denoiser = {**DENOISER, "init_args": {**UNET, "num_class_embeds": embeddings}}
    assert main(["fit", "-c", config(tmp_path, denoiser=denoiser, conditional=conditional)]) == 2
    assert capsys.readouterr().err == error
    assert not (tmp_path / "run").exists()


def test_more_class_embeddings_than_classes_are_fine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    denoiser = {**DENOISER, "init_args": {**UNET, "num_class_embeds": 5}}
    made = config(tmp_path, denoiser=denoiser, conditional=True)
    every_stage(tmp_path, made)
    run = tmp_path / "run"
    kept = json.loads((run / "full" / "record.json").read_text())
    lines = (run / "queries" / "metadata.jsonl").read_text().splitlines()
    assert [json.loads(line)["label"] for line in lines] == [0, 1, 2, 0]

    # An interrupted training goes on with the labels that it began with alone.
    unfinished = run / "checkpoints" / "fit"
    began = {**kept["config"], "data_hash": kept["data_hash"], "labels_hash": "other"}
    write_json(unfinished / "record.json", {"config": began})
    (unfinished / "resume").mkdir()
    shutil.rmtree(run / "full")
    capsys.readouterr()
    assert main(["fit", "-c", made]) == 2
    assert capsys.readouterr().err == (
        f"error: {unfinished} was made with another configuration\n"
        "  found:    labels_hash = other\n"
        f"  expected: labels_hash = {kept['labels_hash']}\n"
        f"  fix:      use another --run, restore the configuration, or remove {unfinished}\n"
    )
