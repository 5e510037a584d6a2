"""``DiffusionModule``: a diffusion model as a LightningModule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from guda_lightning import compat
from guda_lightning.diffusion.deferred_scalars import DeferredScalars
from guda_lightning.diffusion.model import Condition, DiffusionModel, diffusion_model
from guda_lightning.diffusion.schedulers import adopted
from guda_lightning.distributed.ranks import ALONE, Ranks
from guda_lightning.distributed.sharding import gather, shard
from guda_lightning.errors import ConfigError, NumericsError, check_range
from guda_lightning.functional.noise import seed_of
from guda_lightning.functional.prediction import add_noise, to_output
from guda_lightning.functional.schedule import NoiseSchedule
from guda_lightning.types import PredictionType

Batch = Mapping[str, Any]


class Noised(NamedTuple):
    """A batch of samples noised at random timesteps.

    Attributes:
        x0: ``[batch, ...]`` clean samples.
        noise: ``[batch, ...]`` ε.
        x_t: ``[batch, ...]`` ``γ_t x_0 + σ_t ε``.
        timesteps: ``[batch]`` int64.
        gamma: ``[batch, 1, ...]`` γ_t.
        sigma: ``[batch, 1, ...]`` σ_t.
        labels: ``[batch]`` int64 class labels or numbers of prompts; None for an unconditional network.
        rows: ``[batch]`` int64 rows of the training data; None where the batch does not say.
    """

    x0: Tensor
    noise: Tensor
    x_t: Tensor
    timesteps: Tensor
    gamma: Tensor
    sigma: Tensor
    labels: Tensor | None
    rows: Tensor | None = None

    def target(self, prediction: PredictionType) -> Tensor:
        """What a network of this prediction type is trained to output, ``[batch, ...]``."""
        return to_output(self.x0, self.noise, self.gamma, self.sigma, prediction)

    def take(self, rows: Tensor) -> Noised:
        """Some of the samples, by int64 positions in the batch."""
        parts: list[Any] = [None if part is None else part[rows] for part in self]
        return Noised(*parts)


def noised(
    x0: Tensor,
    labels: Tensor | None,
    schedule: NoiseSchedule,
    generator: torch.Generator | None = None,
    ranks: Ranks = ALONE,
) -> Noised:
    """Noise each sample at a timestep drawn uniformly from the whole schedule.

    Args:
        x0: ``[batch, ...]`` clean samples.
        labels: ``[batch]`` int64 labels, for a conditional network.
        schedule: The noise schedule.
        generator: Where timesteps and noise come from, the same on all ranks; None is torch's own.
        ranks: Who share the batch: all together draw what one process draws for the whole batch.
    """
    total, mine = len(x0) * ranks.count, slice(ranks.rank, None, ranks.count)  # dealt as samplers deal
    timesteps = torch.randint(len(schedule), (total,), generator=generator, device=x0.device)[mine]
    shape = (total, *x0.shape[1:])
    noise = torch.randn(shape, generator=generator, device=x0.device, dtype=x0.dtype)[mine]
    gamma, sigma = schedule.at(timesteps, like=x0)
    return Noised(x0, noise, add_noise(x0, noise, gamma, sigma), timesteps, gamma, sigma, labels)


def seed_step(module: LightningModule, seed: int, batch_idx: int) -> torch.Generator:
    """Key all randomness of a training step by (seed, epoch, batch): a resumed run repeats it.

    Torch's own generators, which dropout draws from, are keyed by the rank too.

    Returns:
        A generator on the module's device for what all ranks draw together.
    """
    step = f"{seed} {module.current_epoch} {batch_idx}"
    own = seed_of(f"{step} rank {module.global_rank}")
    if module.device.type == "cpu":
        # torch.manual_seed would also queue a call, with a stack trace, for every GPU that may be used later.
        torch.default_generator.manual_seed(own)
    else:
        torch.manual_seed(own)
    return torch.Generator(module.device).manual_seed(seed_of(f"{step} 0"))


def _images(batch: object) -> Tensor:
    """The images of a batch.

    Raises:
        ConfigError: It has none.
    """
    images = batch.get("image") if isinstance(batch, Mapping) else None
    if isinstance(images, Tensor):
        return images
    raise ConfigError(
        "a batch holds no images under the key 'image'",
        found=f"keys {sorted(map(str, batch))}"
        if isinstance(batch, Mapping)
        else f"a {type(batch).__name__}",
        expected="a dictionary with 'image': [batch, channels, height, width] in [-1, 1]",
        fix="let the data set return {'image': image}, or pass a GroupDataModule to the trainer",
    )


class DiffusionModule(LightningModule):
    """A diffusion model trained to denoise, unconditional or label-conditional, DDPM or flow matching.

    A batch is a mapping with ``image`` (``[batch, channels, height, width]`` in [-1, 1]) and, for a
    conditional model, ``label`` (``[batch]`` int64). All randomness of a training step is a pure function
    of (seed, epoch, batch), so a resumed run repeats what an uninterrupted one does, and several processes
    that share a batch repeat what one does with the whole of it (but for dropout, which is each one's own).

    Args:
        denoiser: A diffusers model such as UNet2DModel, or any module called alike.
        scheduler: The noise scheduler to train with: of diffusers, or any module with ``alphas_cumprod`` or
            ``betas``, such as MONAI's; docs/models.md lists them.
        optimizer: Builds the optimizer from the parameters.
        lr_scheduler: Builds a learning-rate schedule that advances every step.
        ema_decay: Decay of the exponential moving average of the weights, which is then the model that
            is saved, sampled and scored; None keeps no average.
        conditional: Whether the denoiser takes class labels or prompts.
        seed: Seed of the noise and the timesteps of training.

    Raises:
        ConfigError: The EMA decay is out of range.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        scheduler: SchedulerMixin | nn.Module,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
        ema_decay: float | None = None,
        conditional: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_range(
            "the EMA decay",
            ema_decay,
            ge=0,
            lt=1,
            expected="0 <= ema_decay < 1, or null for no average",
            fix="set model.init_args.ema_decay, e.g. 0.9999 for long runs, 0.995 for short ones",
        )
        self.denoiser = denoiser
        # A module that it holds would be trained and stored with it.
        self.scheduler = adopted(scheduler) if isinstance(scheduler, nn.Module) else scheduler
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.conditional, self.seed, self.ema_decay = conditional, seed, ema_decay
        self.ema = (
            None
            if ema_decay is None
            else AveragedModel(denoiser, multi_avg_fn=get_ema_multi_avg_fn(ema_decay), use_buffers=True)
        )
        if self.ema is not None:
            self.ema.requires_grad_(False)
        self.prompts: Condition | None = None  # of a text-conditional denoiser
        self._averaged_step = 0
        self._deferred = DeferredScalars()  # of the last step
        self._ranks = ALONE
        self._generator: torch.Generator | None = None  # of this step, the same on all ranks

    @property
    def student(self) -> DiffusionModel:
        """The model that is being trained."""
        return replace(diffusion_model(self), prompts=self.prompts, conditional=self.conditional)

    @property
    def averaged(self) -> DiffusionModel:
        """The model to save, sample and score: the moving average if there is one."""
        return self.student if self.ema is None else replace(self.student, denoiser=self.ema.module)

    @property
    def network_size(self) -> tuple[int, int] | None:
        """Height and width that the network says it takes; a ``GroupDataModule`` asks. None: any."""
        return self.student.sample_size

    def noised(self, batch: Batch, generator: torch.Generator | None = None) -> Noised:
        """The batch's images, noised at random timesteps.

        Raises:
            ConfigError: The batch holds no images, or no labels for a conditional model.
        """
        images = _images(batch)
        if self.conditional and "label" not in batch:
            raise ConfigError(
                "a label-conditional model got a batch without labels",
                found=f"batch keys {sorted(batch)}",
                expected="the key 'label'",
                fix="use data with labels, or set model.init_args.conditional to false",
            )
        labels = batch["label"] if self.conditional else None
        sample = noised(images, labels, self._schedule, generator, self._ranks)
        return sample._replace(rows=batch.get("index"))

    def denoising_loss(self, model: DiffusionModel, batch: Noised) -> Tensor:
        """Mean squared error of the network's own prediction, a scalar."""
        output = model.output(batch.x_t, batch.timesteps, batch.labels)
        return nn.functional.mse_loss(output, batch.target(model.prediction))

    def setup(self, stage: str) -> None:
        """Read the noise schedule once: diffusers schedulers are mutable.

        Raises:
            ConfigError: The trainer's precision converts the weights.
        """
        trainer = compat.trainer_of(self)
        if trainer is not None and trainer.precision in ("16-true", "bf16-true", "64-true"):
            raise ConfigError(
                f"{type(self).__name__} keeps its weights in float32",
                found=f"precision={trainer.precision!r}",
                expected="a precision that converts no weights",
                fix="pass precision='bf16-mixed' or '16-mixed' to the trainer",
            )
        self._ranks = Ranks.of(trainer)
        self._model = self.student
        self._schedule = self._model.schedule
        self._deferred.clear()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Key all randomness of the step, dropout included."""
        self._generator = seed_step(self, self.seed, batch_idx)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Denoising loss of one batch."""
        loss = self.denoising_loss(self._model, self.noised(batch, self._generator))
        self.log("train/loss", loss, prog_bar=True)
        self.check_scalars(loss=loss)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Update the moving average once per optimizer step."""
        if self.ema is not None and self.global_step > self._averaged_step:
            self.ema.update_parameters(self.denoiser)
            self._averaged_step = self.global_step

    def on_validation_start(self) -> None:
        """Do not validate a model that is lost."""
        self.check_deferred()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Denoising loss of the averaged model, with the same noise at every validation."""
        images = _images(batch)
        generator = torch.Generator(images.device).manual_seed(batch_idx)
        loss = self.denoising_loss(self.averaged, self.noised(batch, generator))
        self.log("val/loss", loss, prog_bar=True, batch_size=len(images), sync_dist=True)

    def configure_model(self) -> None:
        """Spread the weights of all networks over the processes, where the trainer shards (FSDP2)."""
        mesh = Ranks.of(compat.trainer_of(self)).mesh
        if mesh is not None:
            for network in self._networks():
                shard(network, mesh)

    def _networks(self) -> list[nn.Module]:
        """All networks that this module evaluates."""
        return [self.denoiser, *([] if self.ema is None else [self.ema.module])]

    def on_fit_end(self) -> None:
        """Gather the weights again: what is saved and scored is an ordinary network."""
        gather(self)

    def on_train_end(self) -> None:
        """Check the last step too."""
        self.check_deferred()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Do not write NaN weights."""
        self.check_deferred()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continue the moving average where the checkpoint left it."""
        self._averaged_step = checkpoint["global_step"]

    def configure_optimizers(self) -> Any:
        """Optimizer over the denoiser, with its schedule advancing every step."""
        optimizer = self.optimizer([p for p in self.denoiser.parameters() if p.requires_grad])
        if self.lr_scheduler is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.lr_scheduler(optimizer), "interval": "step"},
        }

    def check_scalars(self, **scalars: Tensor) -> None:
        """Pass ``loss`` and other scalars to ``on_scalars``: on the CPU now, on a GPU one step later.

        Raises:
            NumericsError: A loss is not finite.
        """
        self.check_deferred()
        self._deferred.put(self.global_step, scalars)
        if self._checks_at_once:
            self.check_deferred()

    @property
    def _checks_at_once(self) -> bool:
        """Whether reading a scalar does not wait for a device."""
        return self.device.type == "cpu"

    def check_deferred(self) -> None:
        """Check the scalars of the last step, before its weights are validated or written.

        Raises:
            NumericsError: Its loss is not finite: training stops rather than write NaN weights.
        """
        last = self._deferred.read()
        if last is not None:
            self.on_scalars(*last)
            self._deferred.clear()

    def on_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Hook for the scalars of a step, once they are on the host.

        Raises:
            NumericsError: The loss is not finite.
        """
        if not math.isfinite(scalars["loss"]):
            raise NumericsError(
                f"the training loss is not finite at step {step}",
                found=scalars["loss"],
                expected="a finite number",
                fix="check the images for NaN, lower the learning rate, or set trainer.gradient_clip_val=1.0",
            )
