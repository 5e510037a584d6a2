"""Images to latents and prompts to embeddings, as the pipeline itself makes them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from benchmarks.pipelines import stable_diffusion
from diffusers import DiffusionPipeline

from guda_lightning.errors import DataError, StoreError
from guda_lightning.latent import LatentDiffusionModule
from guda_lightning.latent.encoders import Encoders

PROMPTS = ["", "A depiction of 1, artistic style featuring warm, hot"]


def test_latents_are_the_scaled_mean_whatever_the_batch(pretrained: str) -> None:
    pipeline = DiffusionPipeline.from_pretrained(pretrained)
    images = torch.rand(5, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        moments = pipeline.vae.quant_conv(pipeline.vae.encoder(images))
    mean = moments.chunk(2, dim=1)[0] * pipeline.vae.config.scaling_factor
    encoders = Encoders(pretrained, batch_size=2)
    torch.testing.assert_close(encoders.latents(images), mean, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        decoded = pipeline.vae.decode(mean / pipeline.vae.config.scaling_factor).sample.clamp(-1, 1)
    torch.testing.assert_close(encoders.images(mean), decoded, rtol=1e-4, atol=1e-5)


def test_embeddings_are_those_of_the_text_encoder(pretrained: str) -> None:
    pipeline = DiffusionPipeline.from_pretrained(pretrained)
    tokens = pipeline.tokenizer(PROMPTS, padding="max_length", return_tensors="pt")
    with torch.no_grad():
        expected = pipeline.text_encoder(tokens.input_ids).last_hidden_state
    found = Encoders(pretrained, batch_size=1).embeddings(PROMPTS)
    assert list(found) == ["encoder_hidden_states"]
    torch.testing.assert_close(found["encoder_hidden_states"], expected, rtol=1e-5, atol=1e-6)


def test_the_denoiser_is_not_loaded_and_does_not_enter_the_hash(pretrained: str, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(pretrained, other)
    (other / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    encoders = Encoders(str(other))
    assert encoders.pipeline.unet is None
    assert encoders.hash == Encoders(pretrained).hash


def test_another_vae_has_another_hash(pretrained: str, tmp_path: Path) -> None:
    stable_diffusion(PROMPTS, 16, width=16, text_width=32, vae_width=8, seed=1).save_pretrained(tmp_path)
    assert Encoders(str(tmp_path)).hash != Encoders(pretrained).hash


def test_a_pipeline_that_comes_in_half_precision_only(pretrained: str, tmp_path: Path) -> None:
    pipeline = DiffusionPipeline.from_pretrained(pretrained)
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        part.half()
    pipeline.save_pretrained(tmp_path, variant="fp16")
    whole = {name: value.half().float() for name, value in pipeline.unet.state_dict().items()}
    module = LatentDiffusionModule(str(tmp_path))
    assert all(torch.equal(value, whole[name]) for name, value in module.denoiser.state_dict().items())
    encoders, images = Encoders(str(tmp_path)), torch.rand(2, 3, 16, 16) * 2 - 1
    expected = Encoders(pretrained)
    torch.testing.assert_close(encoders.latents(images), expected.latents(images), rtol=0.02, atol=0.02)
    found, states = (each.embeddings(PROMPTS)["encoder_hidden_states"] for each in (encoders, expected))
    torch.testing.assert_close(found.float(), states, rtol=0.02, atol=0.02)


def test_a_prompt_that_the_tokenizer_would_cut_is_refused(pretrained: str) -> None:
    long = " ".join(["cold"] * 23)
    with pytest.raises(DataError) as caught:
        Encoders(pretrained).embeddings(["warm", long])
    assert str(caught.value) == (
        "the tokenizer cuts 1 of 2 prompts, and with them words of a style\n"
        f"  found:    25 tokens of '{long}', of which it keeps '{' '.join(['cold'] * 22)}'\n"
        "  expected: at most 24 tokens\n"
        "  fix:      shorten the prompts, or take a pipeline with a longer context"
    )


def test_a_pipeline_of_another_kind_is_refused(pretrained: str, tmp_path: Path) -> None:
    index = json.loads((Path(pretrained) / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps({**index, "_class_name": "FluxPipeline"}))
    with pytest.raises(StoreError) as caught:
        Encoders(str(tmp_path)).pipeline  # noqa: B018
    assert str(caught.value) == (
        f"{tmp_path} is a pipeline of another kind\n"
        "  found:    FluxPipeline\n"
        "  expected: StableDiffusionPipeline or PixArtAlphaPipeline or PixArtSigmaPipeline or "
        "StableDiffusion3Pipeline\n"
        "  fix:      bring one of these, or wrap the denoiser in a LightningModule of your own"
    )


def test_a_folder_that_is_no_pipeline_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(StoreError) as caught:
        Encoders(str(tmp_path)).pipeline  # noqa: B018
    assert str(caught.value) == (
        f"the pipeline {tmp_path} cannot be read\n"
        "  found:    a folder with ['notes.txt']\n"
        "  expected: a folder that DiffusionPipeline.save_pretrained wrote, or a name on the hub\n"
        "  fix:      correct the path; a hub name needs a connection the first time"
    )


def test_a_folder_that_is_not_there_is_no_name_on_the_hub() -> None:
    with pytest.raises(StoreError) as caught:
        Encoders("./no/pipeline").pipeline  # noqa: B018
    assert str(caught.value) == (
        "the pipeline ./no/pipeline cannot be read\n"
        "  found:    a path that is no folder here\n"
        "  expected: a folder that DiffusionPipeline.save_pretrained wrote, or a name on the hub\n"
        "  fix:      correct the path; a hub name needs a connection the first time"
    )


def test_another_scale_of_the_same_vae_has_another_hash(pretrained: str, tmp_path: Path) -> None:
    shutil.copytree(pretrained, tmp_path / "other")
    path = tmp_path / "other" / "vae" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "scaling_factor": 2 * config["scaling_factor"]}))
    assert Encoders(str(tmp_path / "other")).hash != Encoders(pretrained).hash
