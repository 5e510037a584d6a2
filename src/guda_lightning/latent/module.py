"""``LatentDiffusionModule``: the denoiser of a latent text-to-image pipeline as a LightningModule."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from safetensors import SafetensorError

from guda_lightning.diffusion import DiffusionModule
from guda_lightning.diffusion.adapters import Lora, add_adapter, has_adapter, merge_adapter
from guda_lightning.diffusion.checkpoints import weights_variant
from guda_lightning.diffusion.model import NO_PROMPT
from guda_lightning.diffusion.module import Batch, Noised
from guda_lightning.diffusion.saved import DENOISERS, made_up
from guda_lightning.diffusion.schedulers import prediction_type
from guda_lightning.errors import ConfigError, check_range
from guda_lightning.latent.data import LatentDataModule
from guda_lightning.latent.encoders import pipeline_index, unreadable
from guda_lightning.storage.paths import expanded


class LatentDiffusionModule(DiffusionModule):
    """The denoiser of a diffusers text-to-image pipeline, trained on latents and embedded prompts.

    Latents, the numbers of prompts and their embeddings come from a ``LatentDataModule`` of the same
    pipeline; neither VAE nor text encoder is on the GPU while training.

    Args:
        pretrained: Folder of a diffusers pipeline, or its name on the hub: training starts from its denoiser.
        scheduler: The noise scheduler to train with; None takes the pipeline's.
        optimizer: Builds the optimizer from the trainable parameters.
        lr_scheduler: Builds a learning-rate schedule that advances every step.
        ema_decay: Decay of the moving average of the weights, in [0, 1); None keeps none, as with a LoRA.
        prompt_dropout: Share of the training samples that are seen without their prompt, in [0, 1), for
            classifier-free guidance.
        lora: Train a low-rank adapter, merged into the weights afterwards; None trains all weights.
        gradient_checkpointing: Whether to save memory by computing activations twice.
        seed: Seed of the noise, the timesteps and the prompts left out.

    Raises:
        ConfigError: An argument is out of range, or the scheduler is for another kind of prediction.
        StoreError: The pipeline cannot be read.
    """

    where_and_how: ClassVar[tuple[str, ...]] = ("gradient_checkpointing",)

    def __init__(
        self,
        pretrained: str,
        scheduler: SchedulerMixin | None = None,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
        ema_decay: float | None = None,
        prompt_dropout: float = 0.1,
        lora: Lora | None = None,
        gradient_checkpointing: bool = False,
        seed: int = 0,
    ) -> None:
        check_range(
            "the share of prompts left out",
            prompt_dropout,
            ge=0,
            lt=1,
            symbol="prompt_dropout",
            fix="set model.init_args.prompt_dropout, e.g. 0.1",
        )
        if lora is not None and ema_decay is not None:
            raise ConfigError(
                "LoRA training does not support a moving average",
                found=f"lora of rank {lora.rank} with ema_decay={ema_decay}",
                expected="one of the two",
                fix="leave out model.init_args.ema_decay or model.init_args.lora",
            )
        pretrained = expanded(pretrained)
        denoiser, own = _denoiser(pretrained), _scheduler(pretrained)
        if scheduler is not None and prediction_type(scheduler) != prediction_type(own):
            raise ConfigError(
                "the scheduler's prediction type differs from the denoiser's",
                found=f"{type(scheduler).__name__} with prediction type {prediction_type(scheduler)}",
                expected=f"{prediction_type(own)}, as in {pretrained}",
                fix="set prediction_type of model.init_args.scheduler, or leave the scheduler out",
            )
        if gradient_checkpointing:
            denoiser.enable_gradient_checkpointing()
        super().__init__(
            denoiser, scheduler or own, optimizer, lr_scheduler, ema_decay, conditional=True, seed=seed
        )
        self.pretrained, self.prompt_dropout, self.lora = pretrained, prompt_dropout, lora
        self.gradient_checkpointing = gradient_checkpointing

    def configure_model(self) -> None:
        """Put the adapter in where training begins; between trainings the weights are ordinary ones."""
        training = self.trainer.state.fn == TrainerFn.FITTING
        if self.lora is not None and training and not has_adapter(self.denoiser):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                add_adapter(self.denoiser, self.lora)
        super().configure_model()

    def setup(self, stage: str) -> None:
        """Take the prompts from the data.

        Raises:
            ConfigError: The data has none.
        """
        data: Any = getattr(self.trainer, "datamodule", None)
        self.prompts = getattr(data, "prompts", None)
        if self.prompts is None:
            raise ConfigError(
                "a text-to-image model needs embedded prompts",
                found=f"datamodule {type(data).__name__}",
                expected="a LatentDataModule",
                fix="set data.class_path to guda_lightning.LatentDataModule, of the same pipeline",
            )
        of_data = data.encoders.pretrained if isinstance(data, LatentDataModule) else self.pretrained
        if of_data != self.pretrained:
            raise ConfigError(
                "the data was encoded for another pipeline than the denoiser's",
                found=of_data,
                expected=self.pretrained,
                fix="set pretrained of model and data to the same; --pretrained does, where both use it",
            )
        super().setup(stage)

    def noised(self, batch: Batch, generator: torch.Generator | None = None) -> Noised:
        """The batch's latents, noised at random timesteps; in training, some lose their prompt."""
        sample = super().noised(batch, generator)
        if not self.training or sample.labels is None or not self.prompt_dropout:
            return sample
        total, mine = len(sample.x0) * self._ranks.count, slice(self._ranks.rank, None, self._ranks.count)
        kept = torch.rand(total, generator=generator, device=sample.x0.device)[mine] >= self.prompt_dropout
        return sample._replace(labels=torch.where(kept, sample.labels, NO_PROMPT))

    def on_fit_end(self) -> None:
        """Merge the adapter: what is saved and scored is an ordinary denoiser."""
        super().on_fit_end()
        if has_adapter(self.denoiser):
            merge_adapter(self.denoiser)


def _denoiser(pretrained: str) -> Any:
    """The denoiser of a pipeline, ready to train."""
    import diffusers

    index = pipeline_index(pretrained)
    name = next((part for part in DENOISERS if part in index), None)
    if name is None:
        raise unreadable(pretrained, f"components {sorted(part for part in index if part[0] != '_')}")
    kind: Any = getattr(diffusers, index[name][1])
    try:
        network, loaded = kind.from_pretrained(
            pretrained,
            subfolder=name,
            variant=weights_variant(Path(pretrained) / name),
            low_cpu_mem_usage=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise unreadable(pretrained, error) from error
    if wrong := made_up(loaded):
        raise unreadable(pretrained, wrong)
    return network.train()


def _scheduler(pretrained: str) -> SchedulerMixin:
    import diffusers

    kind: Any = getattr(diffusers, pipeline_index(pretrained)["scheduler"][1])
    scheduler: SchedulerMixin = kind.from_pretrained(pretrained, subfolder="scheduler")
    return scheduler
