"""``ClassifierPosterior``: P(group | noised sample) by a network that was trained on noised samples."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor

from guda_lightning.diffusion.model import Condition
from guda_lightning.functional.guidance import kept_shift, log_kept
from guda_lightning.functional.schedule import NoiseSchedule
from guda_lightning.posteriors.network import NoisyClassifier, pooled
from guda_lightning.posteriors.posterior import Corrections, GroupPosterior

MAX_LOG_SNR = 20.0  # of a sample without noise, or without signal
_TOGETHER = 32  # coalitions: their products grow with its square where each removes one atom, all else falls


@dataclass(frozen=True, kw_only=True)
class ClassifierPosterior(GroupPosterior):
    """A trained classifier of noised samples, and what its classes mean.

    Attributes:
        network: Features and logits, in evaluation mode.
        temperatures: ``[timesteps]`` that logits are divided by.
        prompts: Embeddings of prompts by number, for a text-to-image model.
    """

    sized: ClassVar[bool] = True
    network: NoisyClassifier
    temperatures: Tensor
    prompts: Condition | None = None

    def logits(self, x_t: Tensor, timesteps: Tensor, labels: Tensor | None = None) -> Tensor:
        """``[batch, atoms]``, calibrated.

        Args:
            x_t: ``[batch, ...]`` noised samples.
            timesteps: ``[batch]`` int64.
            labels: ``[batch]`` int64 class labels or numbers of prompts, for a conditional model.
        """
        return self._head(self._features(x_t, timesteps, labels), timesteps)

    def corrections(self, x_t: Tensor, timesteps: Tensor, labels: Tensor | None = None) -> Corrections:
        """See ``GroupPosterior.corrections``.

        The network is differentiated once per coalition, class or feature, whichever are fewest.
        """
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            features = self._features(x, timesteps, labels)
            logits = self._head(features, timesteps)

        def gradients(outputs: Tensor) -> Tensor:
            columns = outputs.unbind(1)
            return torch.stack([torch.autograd.grad(c.sum(), x, retain_graph=True)[0] for c in columns], 1)

        by_feature = features.shape[1] < logits.shape[1]

        @cache
        def shared() -> tuple[Tensor, Tensor, Tensor, Tensor]:
            """The posterior, what logits move by with each output, its mean, and the outputs' Jacobian."""
            with torch.enable_grad():
                outputs = gradients(features if by_feature else logits)
            log_posterior = logits.detach().double().log_softmax(dim=1)
            weight = self.network.head.weight.detach().double()
            values = weight if by_feature else torch.eye(len(weight)).to(weight)
            return log_posterior, values, log_posterior.exp() @ values, outputs.flatten(2).double()

        def correct(removed: Tensor) -> Tensor:
            if len(removed) < min(features.shape[1], logits.shape[1]):
                with torch.enable_grad():
                    return gradients(log_kept(logits, removed))
            log_posterior, values, mean, jacobian = shared()
            found = []
            for part in removed.split(_TOGETHER):
                shift = kept_shift(log_posterior, part, values, mean)
                if by_feature:
                    shift = shift / self._temperature(timesteps)[:, None]
                found.append((shift @ jacobian).to(x_t.dtype))
            return torch.cat(found, dim=1).view(len(x_t), len(removed), *x_t.shape[1:])

        return correct

    def _features(self, x_t: Tensor, timesteps: Tensor, labels: Tensor | None) -> Tensor:
        condition = classifier_condition(self.prompts, labels, x_t)
        return self.network.features(*classifier_inputs(self.schedule, x_t, timesteps), condition)

    def _head(self, features: Tensor, timesteps: Tensor) -> Tensor:
        logits: Tensor = self.network.head(features)
        return logits / self._temperature(timesteps)

    def _temperature(self, timesteps: Tensor) -> Tensor:
        """``[batch, 1]``."""
        return self.temperatures[timesteps.to(self.temperatures.device)][:, None]


def classifier_inputs(schedule: NoiseSchedule, x_t: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
    """What the classifier takes: samples scaled to about unit variance, and their log SNR.

    Args:
        schedule: The noise schedule.
        x_t: ``[batch, ...]`` noised samples.
        timesteps: ``[batch]`` int64.

    Returns:
        ``[batch, ...]`` and ``[batch]``, on the device and of the dtype of ``x_t``.
    """
    gamma, sigma = schedule.at(timesteps, like=x_t)
    log_snr = schedule.log_snr_at(timesteps, like=x_t).clamp(-MAX_LOG_SNR, MAX_LOG_SNR)
    return x_t / (gamma.square() + sigma.square()).sqrt(), log_snr


def classifier_condition(prompts: Condition | None, labels: Tensor | None, x_t: Tensor) -> Tensor | None:
    """What the classifier takes besides: class labels as they are, prompts as one embedding each.

    Args:
        prompts: Embeddings of prompts by number, where ``labels`` are numbers of prompts.
        labels: ``[batch]`` int64.
        x_t: On the device and of the dtype that embeddings are to have.
    """
    if labels is None or prompts is None:
        return labels
    numbers, inverse = labels.unique(return_inverse=True)  # of few prompts, nearly always
    return pooled(prompts(numbers)).to(x_t)[inverse]
