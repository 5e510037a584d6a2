"""Text-to-image from the command line: every stage on a pipeline of some hundred thousand weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from benchmarks.pipelines import stable_diffusion, text_config, word_tokenizer
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPTextModelWithProjection

from guda_lightning import ScoreTable, Scoring, open_run
from guda_lightning.cli.main import main
from guda_lightning.data import Digits, Styled, load_queries
from guda_lightning.types import content_keys

STYLES = ["ember", "negative"]
SOURCE = "--data.init_args.source.init_args"
TRAINER = "--trainer"


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an untrained Stable Diffusion and, beside it, of an untrained CLIP."""
    folder = tmp_path_factory.mktemp("pipelines")
    texts = [*(Styled(Digits(), STYLES, size=16, limit=60).load().prompts or ()), "An artwork of, with 0 1 2"]
    made = stable_diffusion(texts, 16, width=16, text_width=32, vae_width=8)
    made.save_pretrained(folder / "pipeline")
    torch.manual_seed(0)
    tokenizer = word_tokenizer(texts)
    CLIPTextModelWithProjection(text_config(tokenizer, 32)).save_pretrained(folder / "clip")
    tokenizer.save_pretrained(folder / "clip")
    return folder


@pytest.fixture
def config(pipeline: Path, tmp_path: Path) -> list[str]:
    """The arguments of every stage: styles.yaml in small."""
    small = {
        "run": str(tmp_path / "run"),
        "pretrained": str(pipeline / "pipeline"),
        "model": {"init_args": {"ema_decay": None}},
        "data": {
            "init_args": {
                "source": {"init_args": {"styles": STYLES, "size": 16, "limit": 12}},
                "batch_size": 8,
            }
        },
        "trainer": {"max_steps": 4, "logger": False, "enable_progress_bar": False, "limit_val_batches": 0},
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small))
    return ["-c", "styles.yaml", "-c", str(tmp_path / "small.yaml"), "--trainer.accelerator", "cpu"]


def test_every_stage(config: list[str], pipeline: Path, tmp_path: Path, capsys: Any) -> None:
    run, clip = tmp_path / "run", ("--objective.init_args.clip", str(pipeline / "clip"))
    assert main(["fit", *config]) == 0
    network = UNet2DConditionModel.from_pretrained(run / "full" / "unet")  # an ordinary one
    StableDiffusionPipeline.from_pretrained(pipeline / "pipeline", unet=network)
    assert main(["fit", *config]) == 0
    assert f"fit: {run / 'full'} is complete, skipped" in capsys.readouterr().out

    encoded = {path.name: path.stat().st_mtime_ns for path in (run / "latents").iterdir()}
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("A depiction of 3\nA depiction of 5, artistic style featuring burnt, warm, fiery\n")
    drawn = ["sample", *config, "--num", "3", "--steps", "3", "--prompts", str(prompts)]
    assert main([*drawn, "--prompt_guidance", "2.0"]) == 0
    # What one stage encoded the next one reads; the prompts are new.
    known = {path.name: path.stat().st_mtime_ns for path in (run / "latents").iterdir()}
    assert known.items() > encoded.items() and len(known) == len(encoded) + 1
    queries = load_queries(run / "queries", (3, 16, 16))
    lines = prompts.read_text().splitlines()
    assert queries.prompts == (lines[0], lines[1], lines[0])
    assert main(drawn) == 2  # without guidance they would be others
    assert "prompt_guidance" in capsys.readouterr().err

    kinds = {
        "weighted_style": ["-c", "unlearn/weighted_style.yaml", *clip, "--lora.rank", "2"],
        "matched_retain": ["-c", "unlearn/matched_retain.yaml"],
        "retrack": ["-c", "unlearn/retrack.yaml", "--trainer.callbacks", "[]"],
    }
    for operator, options in kinds.items():
        assert main(["unlearn", *config, *options, "--steps", "2"]) == 0
        assert main(["attribute", *config, "--operator", operator, "--scoring.strata", "4"]) == 0
    adapters = sorted((run / "store").glob("weighted_style-*/adapter.safetensors"))
    models = sorted((run / "store").glob("matched_retain-*/model.safetensors"))
    assert len(adapters) == len(models) == len(STYLES)
    assert all(".lora_" in name for name in load_file(adapters[0]))
    assert adapters[0].stat().st_size < models[0].stat().st_size / 10

    assert main(["retrain", *config, "--seeds", "0"]) == 0
    assert main(["attribute", *config, "--operator", "retrain", "--scoring.strata", "4"]) == 0
    table = ScoreTable.load(run / "scores" / "weighted_style-0.parquet")
    assert set(table.groups) == set(STYLES)
    found = open_run(run).attribute(run / "queries", by="weighted_style", scoring=Scoring(strata=4))
    assert found.record == table.record
    one, other = (each.select(weighting="elbo").matrix() for each in (found, table))
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
    assert main(["evaluate", str(run)]) == 0
    metrics = pd.read_parquet(run / "evaluation" / "metrics.parquet")
    assert {"weighted_style-0", "matched_retain-0", "retrack-0"} <= set(metrics.method)

    same_noise = ["--num", "2", "--steps", "3", "--prompt_guidance", "2.0"]
    without = ["sample", *config, *same_noise, "--without", "all"]
    assert main([*without, "--operator", "weighted_style"]) == 0
    pictures = load_queries(run / "without" / "weighted_style" / "ember", (3, 16, 16))
    assert pictures.prompts == (lines[0], lines[1])
    assert main(["report", str(run), "--scores", str(run / "scores" / "weighted_style-0.parquet")]) == 0
    page = (run / "report" / "index.html").read_text()
    assert "With and without" in page

    # Other prompts: the pictures of the first ones are neither shown beside them nor taken for theirs.
    capsys.readouterr()
    shutil.rmtree(run / "queries")
    prompts.write_text("A depiction of 7\n")
    assert main([*drawn, "--prompt_guidance", "2.0"]) == 0
    assert main([*without, "--operator", "weighted_style"]) == 2
    assert "prompts = " in capsys.readouterr().err
    assert main(["report", str(run), "--scores", str(run / "scores" / "weighted_style-0.parquet")]) == 0
    assert 'id="without"' not in (run / "report" / "index.html").read_text()


def test_scores_are_those_of_the_pipelines_own_parts(
    config: list[str], pipeline: Path, tmp_path: Path
) -> None:
    """One score by hand: the VAE's mean, the text encoder's states, the noise of the library, two UNets."""
    from guda_lightning.functional.noise import gaussian_noise

    run = tmp_path / "run"
    grid = ["--scoring.grid", "[500, 501, 1]", "--scoring.draws", "2"]
    for stage in (
        ["fit"],
        ["sample", "--num", "1", "--steps", "2"],
        ["unlearn", "-c", "unlearn/style_removed.yaml", "--steps", "3", "--groups", "ember"],
        ["attribute", "--groups", "ember", *grid],
    ):
        assert main([stage[0], *config, *stage[1:]]) == 0
    found = ScoreTable.load(run / "scores" / "style_removed-0.parquet").select(weighting="elbo").matrix()
    parts = StableDiffusionPipeline.from_pretrained(pipeline / "pipeline")
    queries = load_queries(run / "queries", (3, 16, 16))
    drawn = torch.tensor([500, 500]), torch.tensor([0, 1])
    noise = gaussian_noise(0, content_keys(queries.images) * 2, *drawn, (4, 4, 4))
    alphas = parts.scheduler.alphas_cumprod.double()
    with torch.no_grad():
        latents = parts.vae.encode(queries.images).latent_dist.mean * parts.vae.config.scaling_factor
        tokens = parts.tokenizer(list(queries.prompts or ()), padding="max_length", return_tensors="pt")
        states = parts.text_encoder(tokens.input_ids)[0]
        x_t = (alphas[500].sqrt() * latents + (1 - alphas[500]).sqrt() * noise).float()
        errors = []
        full = UNet2DConditionModel.from_pretrained(run / "full" / "unet").eval()
        weights = load_file(next((run / "store").glob("style_removed-*/model.safetensors")))
        for loaded in (full.state_dict(), weights):
            full.load_state_dict(loaded)
            predicted = full(x_t, 500, encoder_hidden_states=states.expand(2, -1, -1)).sample
            errors.append((noise - predicted).double().square().sum() / 2)
    beta = 1 - alphas[500] / alphas[499]
    posterior = beta * (1 - alphas[499]) / (1 - alphas[500])
    weight = beta**2 / (2 * posterior * (1 - beta) * (1 - alphas[500]))
    assert float(found[0, 0]) == pytest.approx(float(weight * (errors[1] - errors[0])), rel=1e-3)


@pytest.mark.torture
def test_unlearncanvas_runs_on_small_weights_from_the_same_files(pipeline: Path, tmp_path: Path) -> None:
    """Only paths and sizes differ from what the paper's setting needs."""
    rows = []
    for style in ("Artist Sketch", "Vibrant Flow"):
        for content in ("0", "1"):
            folder = tmp_path / "images" / style.replace(" ", "_") / content
            folder.mkdir(parents=True)
            for number in range(2):
                Image.new("RGB", (20, 16), (10 * number, 100, 200)).save(folder / f"{number}.jpg")
            words = "fiery, warm, burnt" if style == "Artist Sketch" else "inverted, pale"
            prompt = f"An artwork of {content}, with {words}"
            rows.append({"style": style, "object": content, "prompt": prompt})
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = [
        *("-c", "unlearncanvas.yaml", "--run", str(tmp_path / "run")),
        *("--pretrained", str(pipeline / "pipeline"), "--data.init_args.image_size", "16"),
        *(f"{SOURCE}.path", str(tmp_path / "images"), f"{SOURCE}.prompts", str(tmp_path / "prompts.jsonl")),
        *("--trainer.max_steps", "2", "--trainer.accelerator", "cpu", "--trainer.logger", "false"),
        *("--trainer.enable_progress_bar", "false", "--trainer.limit_val_batches", "0"),
        *("--trainer.enable_model_summary", "false"),  # Lightning's warns that it knows no bf16
    ]
    clip = ("--objective.init_args.clip", str(pipeline / "clip"))
    stages: dict[str, list[str]] = {
        "fit": [],
        "sample": ["--num", "2", "--steps", "2"],
        "unlearn": ["-c", "unlearn/unlearncanvas.yaml", *clip, "--steps", "2"],
        "attribute": ["-c", "attribute/unlearncanvas.yaml"],
    }
    for stage, options in stages.items():
        assert main([stage, *arguments, *options]) == 0
    table = ScoreTable.load(tmp_path / "run" / "scores" / "weighted_style-0.parquet")
    assert table.groups == ("Artist Sketch", "Vibrant Flow")
    assert table.record.scoring.plan["kind"] == "fixed"
    assert table.record.scoring.plan["timesteps"] == 99
    assert table.record.scoring.precision == "bf16"


def test_a_style_without_prompts_is_refused(config: list[str], tmp_path: Path, capsys: Any) -> None:
    for style in ("ember", "plain"):
        (tmp_path / "images" / style / "0").mkdir(parents=True)
        Image.new("RGB", (16, 16)).save(tmp_path / "images" / style / "0" / "1.png")
    (tmp_path / "prompts.jsonl").write_text(
        '{"style": "ember", "object": "0", "prompt": "A depiction of 0"}\n'
    )
    source = {"class_path": "guda_lightning.data.PromptedFolder", "init_args": {}}
    source["init_args"] = {"path": str(tmp_path / "images"), "prompts": str(tmp_path / "prompts.jsonl")}
    (tmp_path / "folder.yaml").write_text(yaml.safe_dump({"data": {"init_args": {"source": source}}}))
    assert main(["fit", *config, "-c", str(tmp_path / "folder.yaml")]) == 2
    assert "plain" in capsys.readouterr().err
    assert not (tmp_path / "run" / "full").exists()
