"""A small Stable Diffusion trained for real: its own CLIP, VAE and UNet, on pictures of digits.

As with the real one, text encoder and VAE have seen all styles, and the denoiser only plain pictures: it
learns the styles when it is fine-tuned.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm import trange
from transformers import CLIPConfig, CLIPModel, CLIPTextModel, CLIPVisionConfig

from benchmarks.pipelines import stable_diffusion, text_config
from guda_lightning.data import Digits, ImageTable, PromptTemplate, Source, Styled
from guda_lightning.data.images import decoded, to_unit
from guda_lightning.latent import LatentDataModule, LatentDiffusionModule
from guda_lightning.stages.trainer import GudaTrainer
from guda_lightning.storage.files import atomic_folder

SIZE, TEXT_WIDTH, BATCH = 32, 64, 64


@dataclass(frozen=True)
class Plain(Source):
    """A labelled source as it is, with prompts that name the label alone.

    Args:
        base: Where the images come from.
        size: Side in pixels.
        limit: Number of images, from the first.
    """

    base: Source
    size: int = SIZE
    limit: int | None = None

    def load(self) -> ImageTable:
        """List the images."""
        from PIL import Image

        table, template = self.base.load(), PromptTemplate()
        ids, labels = table.ids[: self.limit], (table.labels or ())[: self.limit]

        def read(index: int) -> Image.Image:
            pixels = decoded(table.ids[index], partial(table.read, index), channels=3)
            image = Image.fromarray(pixels.transpose(1, 2, 0).copy())
            return image.resize((self.size, self.size), Image.Resampling.BICUBIC)

        prompts = tuple(template.compose(label, ()) for label in labels)
        return ImageTable(ids, read, labels, table.label_names, prompts)


@dataclass(frozen=True)
class Sizes:
    """How much is trained.

    Attributes:
        images: Digits, each plain and in every style.
        clip_steps: Steps of the CLIP.
        vae_steps: Steps of the VAE.
        base_steps: Steps of the UNet on plain pictures.
        width: Channels of the UNet's first level.
    """

    images: int = 600
    clip_steps: int = 400
    vae_steps: int = 800
    base_steps: int = 1500
    width: int = 32


def make(folder: Path, sizes: Sizes = Sizes()) -> float:
    """Train FOLDER/pipeline and FOLDER/clip, unless they are there; returns the seconds of one core spent."""
    if (folder / "pipeline").is_dir():
        return 0.0
    torch.manual_seed(0)
    start = time.process_time()
    styled = Styled(Digits(), size=SIZE, limit=sizes.images).load()
    plain = Plain(Digits(), limit=sizes.images).load()
    images = torch.cat([to_unit(styled.pixels()), to_unit(plain.pixels(channels=3))])
    texts = [*(styled.prompts or ()), *(plain.prompts or ())]
    pipeline = stable_diffusion(texts, SIZE, sizes.width, TEXT_WIDTH, vae_width=16)
    if not (folder / "clip").is_dir():
        clip = _clip(pipeline, images, texts, sizes.clip_steps)
        with atomic_folder(folder / "clip") as unfinished:
            clip.save_pretrained(unfinished)
            pipeline.tokenizer.save_pretrained(unfinished)
    pipeline.text_encoder = CLIPTextModel.from_pretrained(folder / "clip")
    _train_vae(pipeline.vae, images, sizes.vae_steps)
    with atomic_folder(folder / "untrained") as unfinished:
        pipeline.save_pretrained(unfinished)
    pipeline.unet = _base(folder, sizes)
    with atomic_folder(folder / "pipeline") as unfinished:
        pipeline.save_pretrained(unfinished)
    return time.process_time() - start


def _clip(pipeline: StableDiffusionPipeline, images: Tensor, texts: list[str], steps: int) -> CLIPModel:
    """Learn which text belongs to which picture (contrastive, Radford et al., arXiv 2103.00020)."""
    vision = CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=SIZE,
        patch_size=8,
        projection_dim=TEXT_WIDTH,
    )
    text = text_config(pipeline.tokenizer, TEXT_WIDTH)
    clip = CLIPModel(
        CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=TEXT_WIDTH)
    )
    optimizer = torch.optim.AdamW(clip.parameters(), lr=1e-3)
    tokens = pipeline.tokenizer(texts, padding=True, return_tensors="pt")
    for _ in trange(steps, desc="clip", disable=None):
        rows = torch.randint(len(images), (4 * BATCH,))
        out = clip(
            input_ids=tokens.input_ids[rows],
            attention_mask=tokens.attention_mask[rows],
            pixel_values=images[rows],
        )
        target = torch.arange(len(rows))
        logits = out.logits_per_image
        _step(optimizer, (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2)
    return clip.eval()


def _train_vae(vae: torch.nn.Module, images: Tensor, steps: int) -> None:
    """Learn to encode and decode; latents are scaled to unit variance, as those of Stable Diffusion."""
    network: torch.nn.Module = vae
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=max(steps, 4))
    for _ in trange(steps, desc="vae", disable=None):
        batch = images[torch.randint(len(images), (BATCH,))]
        posterior = vae.encode(batch).latent_dist
        loss = (vae.decode(posterior.sample()).sample - batch).square().mean()
        _step(optimizer, loss + 1e-5 * posterior.kl().mean())
        schedule.step()
    network.eval()
    with torch.no_grad():
        latents = vae.encode(images[torch.randperm(len(images))[:512]]).latent_dist.mode()
    vae.register_to_config(scaling_factor=float(1 / latents.std()))


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _base(folder: Path, sizes: Sizes) -> UNet2DConditionModel:
    """The UNet after a training on plain pictures."""
    untrained, run = str(folder / "untrained"), folder / "base"
    data = LatentDataModule(
        Plain(Digits(), limit=sizes.images),
        untrained,
        str(folder / "latents"),
        BATCH,
        encode_batch_size=BATCH,
    )

    def schedule(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.OneCycleLR:
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=sizes.base_steps)

    module = LatentDiffusionModule(untrained, optimizer=_adam, lr_scheduler=schedule, ema_decay=0.99)
    trainer = GudaTrainer(
        default_root_dir=run,
        max_steps=sizes.base_steps,
        max_epochs=-1,
        gradient_clip_val=1.0,
        logger=False,
        limit_val_batches=0,
        accelerator="cpu",
    )
    trainer.fit_full(module, data)
    return UNet2DConditionModel.from_pretrained(run / "full" / "unet")


def _adam(parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=2e-3)
