"""PixArt and Stable Diffusion 3 in small: their own encoders, transformers and predictions, end to end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.pipelines import text_config, word_tokenizer
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    PixArtAlphaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from transformers import CLIPTextModelWithProjection, T5Config, T5EncoderModel

from guda_lightning import FullModel, GudaTrainer, ScoreTable
from guda_lightning.latent import LatentDataModule, LatentDiffusionModule
from guda_lightning.unlearning import Anchor
from toys import Coloured

TEXTS = list(Coloured().load().prompts or ())


def vae(channels: int, **options: Any) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=16,
        **options,
    )


def t5(words: int, width: int) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(vocab_size=words, d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=2, pad_token_id=1)
    )


@pytest.fixture
def pixart(tmp_path: Path) -> str:
    tokenizer = word_tokenizer(TEXTS)
    PixArtAlphaPipeline(
        tokenizer=tokenizer,
        text_encoder=t5(len(tokenizer), 16),
        vae=vae(4),
        transformer=PixArtTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=4,
            out_channels=8,
            num_layers=1,
            cross_attention_dim=16,
            sample_size=4,
            patch_size=2,
            caption_channels=16,
        ),
        scheduler=DDPMScheduler(beta_schedule="linear", clip_sample=False),
    ).save_pretrained(tmp_path / "pixart")
    return str(tmp_path / "pixart")


@pytest.fixture
def sd3(tmp_path: Path) -> str:
    tokenizer = word_tokenizer(TEXTS)
    clips = [CLIPTextModelWithProjection(text_config(tokenizer, 32)) for _ in range(2)]
    StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=4,
            patch_size=2,
            in_channels=8,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=72,
            caption_projection_dim=16,
            pooled_projection_dim=64,
            out_channels=8,
            pos_embed_max_size=4,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae(8, shift_factor=0.06, scaling_factor=1.5),
        text_encoder=clips[0],
        tokenizer=tokenizer,
        text_encoder_2=clips[1],
        tokenizer_2=tokenizer,
        text_encoder_3=t5(len(tokenizer), 72),
        tokenizer_3=tokenizer,
    ).save_pretrained(tmp_path / "sd3")
    return str(tmp_path / "sd3")


@pytest.mark.filterwarnings("ignore:.*max_length.*:UserWarning")
@pytest.mark.parametrize(("kind", "prediction"), [("pixart", "epsilon"), ("sd3", "flow")])
def test_other_pipelines_go_through_every_stage(
    kind: str, prediction: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    pretrained = request.getfixturevalue(kind)
    run = tmp_path / "run"

    def data() -> LatentDataModule:
        return LatentDataModule(Coloured(), pretrained, str(run / "latents"), batch_size=6)

    def trainer() -> GudaTrainer:
        return GudaTrainer(
            default_root_dir=run,
            max_steps=3,
            max_epochs=-1,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,
        )

    module = LatentDiffusionModule(pretrained)
    assert FullModel.of(module).model.prediction == prediction
    trainer().fit_full(module, data())
    trainer().sample(module, data(), num=2, steps=3, prompt_guidance=3.0)
    trainer().unlearn(module, data(), objective=Anchor(strategy="uniform_style"), steps=2)
    trainer().attribute(module, data(), operator="uniform_style")
    table = ScoreTable.load(run / "scores" / "uniform_style-0.parquet")
    assert table.groups == ("red", "green", "blue")
    assert torch.isfinite(table.select(weighting="uniform").matrix()).all()
