"""``GroupClassifier``: which groups a noised sample is from, trained once for all counterfactuals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from guda_lightning import compat
from guda_lightning.data import GroupDataModule, HeldOutDataModule
from guda_lightning.diffusion import DiffusionModel, evaluating, noised, seed_step
from guda_lightning.diffusion.module import Batch
from guda_lightning.distributed.ranks import Ranks
from guda_lightning.distributed.sharding import gather, shard
from guda_lightning.errors import ConfigError, check_range
from guda_lightning.functional.prediction import add_noise
from guda_lightning.posteriors.classifier_posterior import ClassifierPosterior, classifier_inputs
from guda_lightning.posteriors.network import NoisyClassifier
from guda_lightning.posteriors.tempering import NoiseLevel, temper

DENSE_SIDE = 8  # pixels a side up to which dense layers alone do as well, for less (docs/benchmarks.md)
NOISE_LEVELS = 10  # that are calibrated apart
_DRAWS = 8  # of timestep and noise, per held-out image and noise level


@dataclass(frozen=True)
class ClassifierPlan:
    """How the classifier is built and trained; the defaults are those of 8 x 8 images (docs/benchmarks.md).

    Attributes:
        channels: Channels of convolutional levels, multiples of 8, each of which halves the image; an empty
            list for dense layers alone. None: levels until a side has 8 pixels, which is none for 8 x 8.
        width: Units of each dense layer.
        features: Features that the logits are linear in.
        steps: Optimizer steps.
        batch_size: Images per step and process.
        lr: Highest learning rate of a one-cycle schedule of AdamW.
        weight_decay: Of AdamW.
        held_out: Share of the samples that are not trained on, but calibrated on, in [0, 1).

    Raises:
        ConfigError: A number is out of range.
    """

    channels: tuple[int, ...] | None = None
    width: int = 256
    features: int = 64
    steps: int = 500
    batch_size: int = 256
    lr: float = 5e-3
    weight_decay: float = 0.1
    held_out: float = 0.1

    def __post_init__(self) -> None:
        for name in ("width", "features", "steps", "batch_size"):
            option = f"classifier.{name}"
            check_range(option, getattr(self, name), ge=1, fix=f"set {option}, or leave it out")
        if any(count < 8 or count % 8 for count in self.channels or ()):
            raise ConfigError(
                "classifier.channels is invalid",
                found=list(self.channels or ()),
                expected="one number per convolutional level, each a multiple of 8",
                fix="set classifier.channels, e.g. [32, 64] for 32 x 32 images, or leave it out",
            )

    def channels_for(self, image_shape: tuple[int, int, int]) -> tuple[int, ...]:
        """Channels of the convolutional levels for images of a shape.

        Raises:
            ConfigError: There are more levels than the image can be halved.
        """
        side = min(image_shape[1:])
        if self.channels is None:
            count = max(0, math.ceil(math.log2(side / DENSE_SIDE)))
            return tuple(min(32 << level, 256) for level in range(count))
        if side >> len(self.channels) == 0:
            raise ConfigError(
                "classifier.channels has too many levels: each halves the image",
                found=f"{len(self.channels)} levels for images of shape {image_shape}",
                expected=f"at most {side.bit_length() - 1} levels",
                fix="shorten classifier.channels, or leave it out",
            )
        return self.channels


class GroupClassifier(LightningModule):
    """Learns which atom of a grouping a noised sample is from, at natural frequencies.

    Args:
        plan: Network and training.
        data: The training data of the full model.
        full: The full model.
        seed: Seed of initialisation, noise and timesteps.

    Raises:
        ConfigError: Labels or prompts of a conditional model tell the group already, or the network has more
            levels than the image can be halved.
    """

    def __init__(
        self,
        plan: ClassifierPlan,
        data: GroupDataModule,
        full: DiffusionModel,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.plan, self.seed = plan, seed
        self.schedule, self.conditional = full.schedule, full.conditional
        self.groups = data.grouping.names
        table, atom = data.grouping.atoms()
        self.atoms, self.atom = torch.from_numpy(table), torch.from_numpy(atom)
        if data.prompts is not None:
            raise ConfigError(
                "guidance does not support text-to-image models: prompts determine the groups",
                found="a text-to-image model",
                expected="a model without a condition, or of class labels that do not determine the groups",
                fix="use guda unlearn, e.g. with unlearn/weighted_style.yaml",
            )
        if self.conditional:
            refuse_determined(self.atom, data.labels)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = NoisyClassifier(
                data.input_shape,
                len(self.atoms),
                plan.channels_for(data.input_shape),
                plan.width,
                plan.features,
                data.num_classes if self.conditional else 0,
            )
        self.register_buffer("temperatures", torch.ones(len(self.schedule)))
        self.levels: tuple[NoiseLevel, ...] = ()

    @property
    def posterior(self) -> ClassifierPosterior:
        """The classifier as it is, on this module's device."""
        temperatures: Any = self.temperatures
        return ClassifierPosterior(
            schedule=self.schedule,
            atoms=self.atoms.to(self.device),
            groups=self.groups,
            network=self.network,
            temperatures=temperatures,
        )

    def configure_model(self) -> None:
        """Spread the network over the processes, where the trainer shards (FSDP2)."""
        mesh = Ranks.of(compat.trainer_of(self)).mesh
        if mesh is not None:
            shard(self.network, mesh)

    def on_fit_end(self) -> None:
        """Gather the network again."""
        gather(self)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Key all randomness of the step."""
        self._generator = seed_step(self, self.seed, batch_idx)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Cross-entropy of the atoms of noised samples."""
        labels = batch.get("label") if self.conditional else None
        sample = noised(batch["image"], labels, self.schedule, self._generator, Ranks.of(self.trainer))
        logits = self.network(*classifier_inputs(self.schedule, sample.x_t, sample.timesteps), sample.labels)
        loss = nn.functional.cross_entropy(logits, self.atom[batch["index"].cpu()].to(self.device))
        self.log("guide/loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        """AdamW under a one-cycle schedule."""
        plan = self.plan
        optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=plan.lr, weight_decay=plan.weight_decay, fused=True
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, plan.lr, total_steps=plan.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def calibrate(self, data: HeldOutDataModule) -> None:
        """Fit a temperature for each noise level on the held-out samples, and report what it does."""
        scored = self.schedule.scored_timesteps
        generator = torch.Generator().manual_seed(self.seed)
        images, labels, atom = self._held_out(data)
        levels = []
        for part in scored.tensor_split(NOISE_LEVELS) if len(images) else ():
            timesteps = part[torch.randint(len(part), (len(images),), generator=generator)]
            noise = torch.randn(images.shape, generator=generator)
            x_t = add_noise(images, noise, *self.schedule.at(timesteps, like=images))
            logits = self._logits(x_t, timesteps, labels)
            level = temper(logits, atom, int(part[0]), int(part[-1]))
            temperatures: Any = self.temperatures
            temperatures[level.first : level.last + 1] = level.temperature
            levels.append(level)
        self.levels = tuple(levels)

    def _held_out(self, data: HeldOutDataModule) -> tuple[Tensor, Tensor | None, Tensor]:
        """Held-out images, labels and atoms, several times each."""
        index = torch.from_numpy(data.held_out).repeat(_DRAWS)
        images = data.parent.seen_images(data.held_out)[: len(data.held_out)].repeat(_DRAWS, 1, 1, 1)
        labels = data.parent.labels
        return images, labels[index] if self.conditional and labels is not None else None, self.atom[index]

    def _logits(self, x_t: Tensor, timesteps: Tensor, labels: Tensor | None) -> Tensor:
        """Without temperature, in batches, on the CPU."""
        batches = []
        with evaluating(self.network):
            for rows in torch.arange(len(x_t)).split(1024):
                x, log_snr = classifier_inputs(self.schedule, x_t[rows].to(self.device), timesteps[rows])
                of = None if labels is None else labels[rows].to(self.device)
                batches.append(self.network(x, log_snr, of).cpu())
        return torch.cat(batches)


def refuse_determined(atom: Tensor, labels: Tensor | None) -> None:
    """Refuse groups that a conditional model's labels tell already: ρ is 0 or 1 whatever x_t is.

    Args:
        atom: ``[samples]`` int64.
        labels: ``[samples]`` int64 that the full model is conditioned on.

    Raises:
        ConfigError: Every label has samples of one atom only.
    """
    if labels is None or all(len(atom[labels == label].unique()) == 1 for label in labels.unique()):
        raise ConfigError(
            "guidance does not support these groups: class labels of the conditional model determine them",
            found="one set of groups per label",
            expected="groups that the labels do not determine, or an unconditional model",
            fix="use guda unlearn, or group the samples by something else than their labels",
        )
