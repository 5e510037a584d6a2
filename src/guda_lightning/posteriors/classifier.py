"""``GroupClassifier``: which groups a noised sample is from, trained once for all counterfactuals."""

from __future__ import annotations

import copy
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from guda_lightning import compat
from guda_lightning.data import GroupDataModule, HeldOutDataModule
from guda_lightning.data.grouping import Indices
from guda_lightning.diffusion import DiffusionModel, noised, seed_step
from guda_lightning.diffusion.model import NO_PROMPT
from guda_lightning.diffusion.module import Batch
from guda_lightning.distributed.ranks import Ranks
from guda_lightning.distributed.sharding import gather, shard
from guda_lightning.errors import ConfigError
from guda_lightning.functional.class_moments import ClassMoments
from guda_lightning.posteriors.classifier_posterior import (
    ClassifierPosterior,
    classifier_condition,
    classifier_inputs,
)
from guda_lightning.posteriors.feature_moments import (
    NOISE_LEVELS,
    FeatureMoments,
    draws_of,
    hashed,
    level_features,
    seen_rows,
)
from guda_lightning.posteriors.held_out import HeldOut
from guda_lightning.posteriors.network import NoisyClassifier, pooled
from guda_lightning.posteriors.plan import ClassifierPlan
from guda_lightning.posteriors.stopping import HELD_OUT_LOSS, HeldOutStopping
from guda_lightning.posteriors.tempering import NoiseLevel, entropy_of, temper

_DRAWS = 8  # of timestep and noise, per held-out image and noise level
TEST_EVERY = 50  # steps between two tests on held-out samples
_TESTED, _MOST_DRAWS = 2048, 32  # noised samples of a test, and of each image in it, at most
_EMA_DECAY = 0.99
_WARM_UP = 50  # steps
_WITHOUT_PROMPT = 0.1  # share of the samples, for models that are sampled with classifier-free guidance


class GroupClassifier(LightningModule):
    """Learns which atom of a grouping a noised sample is from, at natural frequencies.

    Its learning rate is constant and its weights are averaged, so that every step is as good an end as any:
    every ``TEST_EVERY`` steps the average is tested on held-out samples, noised the same way each time. The
    average of the least loss is kept, and training ends where ``patience`` tests brought no lower one. What
    that takes, the average, the kept weights and the state of the tests, is in every checkpoint.

    Args:
        plan: Network and training.
        data: The training data of the full model.
        full: The full model.
        seed: Seed of initialisation, noise and timesteps.

    Attributes:
        network: What is trained.
        average: The exponential moving average of its weights.
        kept: The average of the least held-out loss: the classifier.
        levels: How well it does at every noise level, once it is calibrated.
        moments: Of its features, once they are taken.

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
        self.schedule, self.conditional, self.prompts = full.schedule, full.conditional, data.prompts
        self.groups = data.grouping.names
        table, atom = data.grouping.atoms()
        self.atoms, self.atom = torch.from_numpy(table), torch.from_numpy(atom)
        prompt_size = 0
        if self.prompts is not None or self.conditional:
            refuse_determined(self.atom, data.labels, by_prompts=self.prompts is not None)
        if self.prompts is not None:
            self.conditional = True
            prompt_size = pooled(self.prompts(torch.tensor([NO_PROMPT]))).shape[1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = NoisyClassifier(
                data.input_shape,
                len(self.atoms),
                plan.channels_for(data.input_shape),
                plan.width,
                plan.features,
                data.num_classes if self.conditional and not prompt_size else 0,
                prompt_size,
            )
        self.average = AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(_EMA_DECAY))
        self.kept = copy.deepcopy(self.network)
        for network in (self.average, self.kept):
            network.requires_grad_(False)
        self.stopping = HeldOutStopping(plan.patience)
        self.register_buffer("temperatures", torch.ones(len(self.schedule)))
        self.levels: tuple[NoiseLevel, ...] = ()
        self.moments: FeatureMoments | None = None
        self._averaged_step = 0

    @property
    def posterior(self) -> ClassifierPosterior:
        """The classifier that is kept, on this module's device."""
        temperatures: Any = self.temperatures
        return ClassifierPosterior(
            schedule=self.schedule,
            atoms=self.atoms.to(self.device),
            groups=self.groups,
            network=self.kept,
            temperatures=temperatures,
            prompts=self.prompts,
        )

    def configure_callbacks(self) -> list[Callback]:
        """What ends the training early."""
        return [self.stopping]

    def configure_model(self) -> None:
        """Spread the networks over the processes, where the trainer shards (FSDP2)."""
        mesh = Ranks.of(compat.trainer_of(self)).mesh
        if mesh is not None:
            for network in (self.network, self.average.module, self.kept):
                shard(network, mesh)

    def on_fit_start(self) -> None:
        """Take the held-out samples, if there are any."""
        data: Any = getattr(self.trainer, "datamodule", None)
        self._tests = self._held_out(data) if len(data.held_out) else None

    def on_fit_end(self) -> None:
        """Gather the networks again."""
        gather(self)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Key all randomness of the step."""
        self._generator = seed_step(self, self.seed, batch_idx)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Cross-entropy of the atoms of noised samples."""
        labels = batch.get("label") if self.conditional else None
        ranks = Ranks.of(self.trainer)
        sample = noised(batch["image"], labels, self.schedule, self._generator, ranks)
        labels = sample.labels
        if labels is not None and self.prompts is not None:
            total, mine = len(labels) * ranks.count, slice(ranks.rank, None, ranks.count)
            drawn = torch.rand(total, generator=self._generator, device=self.device)[mine]
            labels = torch.where(drawn < _WITHOUT_PROMPT, NO_PROMPT, labels)
        condition = classifier_condition(self.prompts, labels, sample.x_t)
        inputs = classifier_inputs(self.schedule, sample.x_t, sample.timesteps)
        logits = self.network(*inputs, condition)
        loss = nn.functional.cross_entropy(logits, self.atom[batch["index"].cpu()].to(self.device))
        self.log("guide/loss", loss, prog_bar=True)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Average the weights once per optimizer step, and test the average now and then."""
        step = self.global_step
        if step == self._averaged_step:
            return
        self.average.update_parameters(self.network)
        self._averaged_step = step
        if self._tests is not None and (step % TEST_EVERY == 0 or step == self.trainer.max_steps):
            loss = Ranks.of(self.trainer).broadcast(self.held_out_loss(self._tests))
            self.log(HELD_OUT_LOSS, loss, prog_bar=True, logger=False)
            for logger in self.loggers:  # at this very step, whatever log_every_n_steps
                logger.log_metrics({HELD_OUT_LOSS: loss}, step=step)
            if self.stopping.tested(self.trainer, loss):
                self._keep()

    def on_train_end(self) -> None:
        """Without held-out samples, keep the last average."""
        if not self.stopping.step:
            self._keep()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on averaging where the checkpoint left it."""
        self._averaged_step = checkpoint["global_step"]

    def configure_optimizers(self) -> Any:
        """AdamW at a constant rate, after a few steps that lead up to it."""
        plan = self.plan
        optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=plan.lr, weight_decay=plan.weight_decay, fused=True
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / _WARM_UP))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def held_out_loss(self, samples: HeldOut) -> float:
        """Cross-entropy of the average of the weights on held-out samples, in nats.

        Over timesteps of the whole schedule, as in training, and the same noise every time.
        """
        generator = torch.Generator().manual_seed(self.seed)
        count = min(_TESTED, _MOST_DRAWS * len(samples))
        rows, spread = samples.spread(count), torch.arange(count) * len(self.schedule) // count
        timesteps = spread[torch.randperm(count, generator=generator)]
        average: Any = self.average.module
        logits = samples.logits(average, rows, timesteps, self.seed)
        return float(nn.functional.cross_entropy(logits, samples.atom[rows]))

    @property
    def chance(self) -> float:
        """The loss of what knows nothing but how many samples each set of groups has: their entropy."""
        return entropy_of(torch.bincount(self.atom))

    def calibrate(self, data: HeldOutDataModule) -> None:
        """Fit a temperature for each noise level on the held-out samples, and report what it does."""
        samples = self._held_out(data)
        rows = torch.arange(len(samples)).repeat(_DRAWS)
        generator, levels = torch.Generator().manual_seed(self.seed), []
        sizes = torch.bincount(self.atom, minlength=len(self.atoms))
        for part in self.schedule.scored_timesteps.tensor_split(NOISE_LEVELS) if len(samples) else ():
            timesteps = part[torch.randint(len(part), (len(rows),), generator=generator)]
            logits = samples.logits(self.kept, rows, timesteps, self.seed + int(part[0]))
            level = temper(logits, samples.atom[rows], sizes, int(part[0]), int(part[-1]), draws=_DRAWS)
            temperatures: Any = self.temperatures
            temperatures[level.first : level.last + 1] = level.temperature
            levels.append(level)
        self.levels = tuple(levels)

    def take_moments(self, data: HeldOutDataModule) -> None:
        """Take the moments of the features of all classes, which new groups are made from."""

        def of(rows: Indices) -> ClassMoments:
            seen = rows[seen_rows(self.atom[rows]).numpy()]
            samples = HeldOut.of_samples(
                data.parent, seen, self.atom[seen], self.schedule, self.conditional, self.prompts
            )
            draws = draws_of(len(seen))
            features = level_features(samples, self.kept, self.schedule, draws, self.seed)
            return ClassMoments.of(features, samples.atom.repeat_interleave(draws), len(self.atoms))

        held_out = torch.zeros(len(self.atom), dtype=torch.bool)
        held_out[data.held_out] = True
        self.moments = FeatureMoments(
            sample=hashed(data.parent),
            atom=self.atom,
            held_out=held_out,
            trained=of(data.kept),
            tested=of(data.held_out),
        )

    def _held_out(self, data: HeldOutDataModule) -> HeldOut:
        return HeldOut.of(data, self.atom, self.schedule, self.conditional, self.prompts)

    def _keep(self) -> None:
        self.kept.load_state_dict(self.average.module.state_dict())


def refuse_determined(atom: Tensor, labels: Tensor | None, by_prompts: bool = False) -> None:
    """Refuse groups that a conditional model's labels or prompts tell already: ρ is 0 or 1 whatever x_t is.

    Args:
        atom: ``[samples]`` int64.
        labels: ``[samples]`` int64 that the full model is conditioned on.
        by_prompts: Whether these are numbers of prompts.

    Raises:
        ConfigError: Every label or prompt has samples of one atom only.
    """
    if labels is not None and any(len(atom[labels == label].unique()) > 1 for label in labels.unique()):
        return
    one, several = (
        ("prompt", "prompts of the text-to-image model")
        if by_prompts
        else ("label", "class labels of the conditional model")
    )
    raise ConfigError(
        f"guidance does not support these groups: {several} determine them",
        found=f"one set of groups per {one}",
        expected=f"groups that the {one}s do not determine, or an unconditional model",
        fix="use guda unlearn, e.g. with unlearn/weighted_style.yaml, or prompts that several groups share"
        if by_prompts
        else "use guda unlearn, or group the samples by something else than their labels",
    )
