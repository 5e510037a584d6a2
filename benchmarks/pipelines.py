"""Small text-to-image pipelines, built from configurations: there are no weights to download here."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

_BEGIN, _END, _UNKNOWN = "<s>", "</s>", "<unk>"


def word_tokenizer(texts: Sequence[str], length: int = 24) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are the words of some texts, lower case; commas are words too.

    Args:
        texts: What it will be asked to encode.
        length: Tokens of a text, begin and end included.
    """
    words = sorted({word for text in texts for word in re.findall(r"\w+|[^\w\s]+", text.lower())})
    vocabulary = {word: number for number, word in enumerate((_BEGIN, _END, _UNKNOWN, *words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=_UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{_BEGIN} $A {_END}", special_tokens=[(_BEGIN, 0), (_END, 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=_BEGIN,
        eos_token=_END,
        unk_token=_UNKNOWN,
        pad_token=_END,
        model_max_length=length,
    )


def text_config(tokenizer: PreTrainedTokenizerFast, width: int) -> CLIPTextConfig:
    """A text tower for a tokenizer, two layers deep."""
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=max(1, width // 32),
        max_position_embeddings=tokenizer.model_max_length,
        projection_dim=width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def stable_diffusion(
    texts: Sequence[str],
    image_size: int = 32,
    width: int = 32,
    text_width: int = 32,
    vae_width: int = 16,
    prediction_type: str = "epsilon",
    seed: int = 0,
) -> StableDiffusionPipeline:
    """An untrained Stable Diffusion in small: latents of 4 channels, a quarter of the image's side.

    Args:
        texts: Prompts whose words the tokenizer knows.
        image_size: Side of an image in pixels.
        width: Channels of the UNet's first level.
        text_width: Width of the text encoder.
        vae_width: Channels of the VAE's first level.
        prediction_type: What the UNet predicts.
        seed: Seed of the weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = word_tokenizer(texts)
        vae = AutoencoderKL(
            block_out_channels=(vae_width, 2 * vae_width, 2 * vae_width),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            latent_channels=4,
            norm_num_groups=8,
            sample_size=image_size,
        )
        unet = UNet2DConditionModel(
            sample_size=image_size // 4,
            in_channels=4,
            out_channels=4,
            block_out_channels=(width, 2 * width),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=text_width,
            norm_num_groups=8,
            attention_head_dim=1,  # heads, in this class of diffusers
        )
        return StableDiffusionPipeline(
            vae=vae,
            text_encoder=CLIPTextModel(text_config(tokenizer, text_width)),
            tokenizer=tokenizer,
            unet=unet,
            scheduler=DDPMScheduler(
                beta_schedule="scaled_linear",
                beta_start=0.00085,
                beta_end=0.012,
                clip_sample=False,
                steps_offset=1,
                prediction_type=prediction_type,
            ),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
