"""``GroupPosterior``: P(group | noised sample), and the counterfactuals that it implies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from guda_lightning.diffusion import DiffusionModel
from guda_lightning.errors import GroupError
from guda_lightning.functional.guidance import (
    guide_output,
    guided_errors,
    kept_slope,
    log_kept,
    removed_atoms,
)
from guda_lightning.functional.schedule import NoiseSchedule
from guda_lightning.posteriors.network import NoisyClassifier

MAX_LOG_SNR = 20.0  # of a sample without noise, or without signal


@dataclass(frozen=True)
class GroupPosterior:
    """A trained classifier of noised samples, and what its classes mean.

    Attributes:
        network: Features and logits, in evaluation mode.
        schedule: The noise schedule of the full model.
        atoms: ``[atoms, groups]`` bool, the groups of each class.
        groups: Names of the groups.
        temperatures: ``[timesteps]`` that logits are divided by.
    """

    network: NoisyClassifier
    schedule: NoiseSchedule
    atoms: Tensor
    groups: tuple[str, ...]
    temperatures: Tensor

    def removed(self, coalitions: Sequence[Sequence[str]]) -> Tensor:
        """Which atoms each coalition of groups removes: ``[coalitions, atoms]`` bool.

        Raises:
            GroupError: A group is not among the classifier's, or a coalition covers all data.
        """
        for group in (group for coalition in coalitions for group in coalition):
            if group not in self.groups:
                raise GroupError(
                    f"the classifier does not know the group '{group}'",
                    found=f"a classifier of {', '.join(self.groups)}",
                    expected=f"one that was trained with '{group}'",
                    fix="correct the name, or run guda guide with today's groups",
                )
        member = [[group in coalition for group in self.groups] for coalition in coalitions]
        return removed_atoms(self.atoms, torch.tensor(member, device=self.atoms.device))

    def logits(self, x_t: Tensor, timesteps: Tensor, labels: Tensor | None = None) -> Tensor:
        """``[batch, atoms]``, calibrated.

        Args:
            x_t: ``[batch, ...]`` noised samples.
            timesteps: ``[batch]`` int64.
            labels: ``[batch]`` int64 class labels, for a conditional model.
        """
        return self._head(self._features(x_t, timesteps, labels), timesteps)

    def gradient(
        self, x_t: Tensor, timesteps: Tensor, removed: Tensor, labels: Tensor | None = None
    ) -> Tensor:
        """``∇_x log(1 − ρ_S)`` for one coalition: ``[batch, ...]``.

        Args:
            x_t: ``[batch, ...]``.
            timesteps: ``[batch]`` int64.
            removed: ``[1, atoms]`` bool.
            labels: ``[batch]`` int64 class labels, for a conditional model.
        """
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            kept = log_kept(self.logits(x, timesteps, labels), removed).sum()
            (found,) = torch.autograd.grad(kept, x)
        return found

    def errors(
        self,
        noise: Tensor,
        predicted_noise: Tensor,
        x_t: Tensor,
        timesteps: Tensor,
        removed: Tensor,
        labels: Tensor | None = None,
    ) -> Tensor:
        """Squared noise errors of every coalition's counterfactual, from one pass of the full model.

        The classifier is differentiated once per class or once per feature, whichever are fewer, however many
        coalitions there are.

        Args:
            noise: ``[batch, ...]`` ε.
            predicted_noise: ``[batch, ...]`` ε̂ of the full model.
            x_t: ``[batch, ...]``.
            timesteps: ``[batch]`` int64.
            removed: ``[coalitions, atoms]`` bool.
            labels: ``[batch]`` int64 class labels, for a conditional model.

        Returns:
            ``[batch, coalitions]`` float64.
        """
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            features = self._features(x, timesteps, labels)
            logits = self._head(features, timesteps)
            slope = kept_slope(logits.detach().double(), removed)
            outputs = logits
            if features.shape[1] < logits.shape[1]:
                weight = self.network.head.weight.detach().double()
                slope = slope @ weight / self._temperature(timesteps)[:, None]
                outputs = features
            rows = [
                torch.autograd.grad(outputs[:, column].sum(), x, retain_graph=True)[0].flatten(1)
                for column in range(outputs.shape[1])
            ]
        _, sigma = self.schedule.at(timesteps, like=x_t)
        residual = (noise - predicted_noise).flatten(1)
        return guided_errors(residual, sigma.flatten(), torch.stack(rows, dim=1), slope)

    def _features(self, x_t: Tensor, timesteps: Tensor, labels: Tensor | None) -> Tensor:
        return self.network.features(*classifier_inputs(self.schedule, x_t, timesteps), labels)

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


class GuidedDenoiser(nn.Module):
    """The full model's network, guided away from some groups: a counterfactual that was never trained.

    Called as any denoiser is, so it is scored and sampled from like one.

    Args:
        full: The full model.
        posterior: The classifier.
        groups: Names of the groups to remove together.

    Raises:
        GroupError: An unknown group, or groups that cover all data.
    """

    def __init__(self, full: DiffusionModel, posterior: GroupPosterior, groups: Sequence[str]) -> None:
        super().__init__()
        self.network, self.classifier = full.denoiser, posterior.network
        self._full, self._posterior = full, posterior
        self._removed = posterior.removed([groups])

    def forward(self, x_t: Tensor, model_timesteps: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """The guided output, in the form that the full model predicts.

        Args:
            x_t: ``[batch, ...]`` noised samples.
            model_timesteps: ``[batch]`` values of the schedule's ``model_timesteps``.
            class_labels: ``[batch]`` int64, for a conditional model.
        """
        output = replace(self._full, denoiser=self.network).call(x_t, model_timesteps, class_labels)
        schedule = self._full.schedule
        timesteps = schedule.timesteps_of(model_timesteps)
        gradient = self._posterior.gradient(x_t, timesteps, self._removed, class_labels)
        gamma, sigma = schedule.at(timesteps, like=x_t)
        return guide_output(output, gradient, gamma, sigma, self._full.prediction)


def guided(full: DiffusionModel, posterior: GroupPosterior, groups: Sequence[str]) -> DiffusionModel:
    """The counterfactual without some groups, as a model to score or to sample from."""
    return replace(full, denoiser=GuidedDenoiser(full, posterior, groups))
