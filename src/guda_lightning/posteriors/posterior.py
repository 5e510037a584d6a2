"""What every posterior is: P(group | noised sample), and the counterfactuals that it implies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from guda_lightning.diffusion import DiffusionModel
from guda_lightning.errors import GroupError
from guda_lightning.functional.guidance import guide_output, removed_atoms
from guda_lightning.functional.schedule import NoiseSchedule

# Of ``[coalitions, atoms]`` bool, what each removes: ``∇_x log(1 − ρ_S)``, ``[batch, coalitions, ...]``.
Corrections = Callable[[Tensor], Tensor]

_CHUNK_BYTES = 16 * 2**20  # of the corrections that are held at a time: more falls out of the caches


class Regions(NamedTuple):
    """Which parts of noised samples come from some coalitions of groups.

    Attributes:
        shares: ``[batch, coalitions, height, width]`` float64 in [0, 1].
        weights: ``[batch]`` float64, what the shares of each sample count; 0 where nothing is known of it.
    """

    shares: Tensor
    weights: Tensor


@dataclass(frozen=True, kw_only=True)
class GroupPosterior(ABC):
    """P(the clean sample is in some groups | x_t), for any coalition of groups.

    A new kind is one file: a frozen dataclass that says what moves the full model's score where a coalition
    is removed. Counterfactual denoisers, squared errors, samples and unlearning targets follow from that.

    Attributes:
        schedule: The noise schedule of the full model.
        atoms: ``[atoms, groups]`` bool, the distinct sets of groups that some training sample is in.
        groups: Names of the groups.
        sized: Whether scores by it have the size of retraining by construction, beside its order.
    """

    sized: ClassVar[bool] = False
    schedule: NoiseSchedule
    atoms: Tensor
    groups: tuple[str, ...]

    @abstractmethod
    def corrections(self, x_t: Tensor, timesteps: Tensor, labels: Tensor | None = None) -> Corrections:
        """What removing coalitions adds to the score of noised samples: ``∇_x log(1 − ρ_S)``.

        What all coalitions share is computed once, however often the result is called.

        Args:
            x_t: ``[batch, ...]`` noised samples.
            timesteps: ``[batch]`` int64.
            labels: ``[batch]`` int64 class labels or numbers of prompts, for a conditional model.

        Returns:
            A function of ``[coalitions, atoms]`` bool, as ``removed`` gives it, to
            ``[batch, coalitions, ...]`` of the dtype and on the device of ``x_t``.
        """

    def regions(
        self, x_t: Tensor, timesteps: Tensor, removed: Tensor, labels: Tensor | None = None
    ) -> Regions | None:
        """Which parts of noised samples come from each coalition; None where the posterior cannot tell.

        Args:
            x_t: ``[batch, ...]`` noised samples.
            timesteps: ``[batch]`` int64.
            removed: ``[coalitions, atoms]`` bool.
            labels: ``[batch]`` int64 class labels or numbers of prompts, for a conditional model.
        """
        return None

    def removed(self, coalitions: Sequence[Sequence[str]]) -> Tensor:
        """Which atoms each coalition of groups removes: ``[coalitions, atoms]`` bool.

        Raises:
            GroupError: A group is not among the posterior's, or a coalition covers all data.
        """
        for group in (group for coalition in coalitions for group in coalition):
            self._column(group)
        member = [[group in coalition for group in self.groups] for coalition in coalitions]
        return removed_atoms(self.atoms, torch.tensor(member, device=self.atoms.device))

    def others(self, group: str) -> Tensor:
        """Which atoms one group does not hold, and that steering towards it removes: ``[1, atoms]`` bool.

        Raises:
            GroupError: The posterior does not know the group, or it holds no atom, or all.
        """
        holds = self.atoms[:, self._column(group)]
        if bool(holds.all()) or not bool(holds.any()):
            raise GroupError(
                f"there is nothing to steer towards: the group '{group}' has "
                + ("all samples" if bool(holds.all()) else "no sample"),
                found=f"{int(holds.sum())} of {len(holds)} distinct sets of groups hold it",
                expected="some of them, and some others",
                fix="leave the group out",
            )
        return ~holds[None]

    def _column(self, group: str) -> int:
        if group not in self.groups:
            raise GroupError(
                f"the posterior does not know the group '{group}'",
                found=f"a posterior of {', '.join(self.groups)}",
                expected=f"one that was made with '{group}'",
                fix="correct the name, or run guda guide with today's groups",
            )
        return self.groups.index(group)

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

        ``ε − ε_−S = ε − ε_full + σ ∇_x log(1 − ρ_S)``.

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
        _, sigma = self.schedule.at(timesteps, like=x_t)
        residual = (noise - predicted_noise).double().flatten(1)[:, None]
        corrections = self.corrections(x_t, timesteps, labels)
        found = []
        for part in removed.split(max(1, _CHUNK_BYTES // residual.nbytes)):
            moved = corrections(part).flatten(2).double() * sigma.double().view(-1, 1, 1)
            found.append((residual + moved).square().sum(dim=2))
        return torch.cat(found, dim=1)


class GuidedDenoiser(nn.Module):
    """The full model's network, guided away from some atoms: a model of the others that was never trained.

    Called as any denoiser is, so it is scored and sampled from like one.

    Args:
        full: The full model.
        posterior: Of the groups.
        removed: ``[1, atoms]`` bool, what to guide away from.
    """

    def __init__(self, full: DiffusionModel, posterior: GroupPosterior, removed: Tensor) -> None:
        super().__init__()
        self.network = full.denoiser
        self._full, self._posterior, self._removed = full, posterior, removed

    def forward(self, x_t: Tensor, model_timesteps: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """The guided output, in the form that the full model predicts.

        Args:
            x_t: ``[batch, ...]`` noised samples.
            model_timesteps: ``[batch]`` values of the schedule's ``model_timesteps``.
            class_labels: ``[batch]`` int64 class labels or numbers of prompts, for a conditional model.
        """
        output = replace(self._full, denoiser=self.network).call(x_t, model_timesteps, class_labels)
        schedule = self._full.schedule
        timesteps = schedule.timesteps_of(model_timesteps)
        gradient = self._posterior.corrections(x_t, timesteps, class_labels)(self._removed)[:, 0]
        gamma, sigma = schedule.at(timesteps, like=x_t)
        return guide_output(output, gradient, gamma, sigma, self._full.prediction)


def guided(full: DiffusionModel, posterior: GroupPosterior, groups: Sequence[str]) -> DiffusionModel:
    """The counterfactual without some groups, as a model to score or to sample from.

    Raises:
        GroupError: An unknown group, or groups that cover all data.
    """
    return _guided(full, posterior, posterior.removed([groups]))


def steered(full: DiffusionModel, posterior: GroupPosterior, group: str) -> DiffusionModel:
    """The full model steered towards one group, as a model to sample from: ``ε_k = ε_full − σ ∇_x log ρ_k``.

    Noised densities obey ``p_k,t(x) ∝ p_t(x) ρ_k(x, t)``, where ρ_k is the probability that the clean sample
    is in the group: what guidance leaves where it removes every sample that is not. With an exact posterior
    it is the model of the group's own samples, and no strength is left to choose.

    Raises:
        GroupError: An unknown group, or one that has no sample or all.
    """
    return _guided(full, posterior, posterior.others(group))


def _guided(full: DiffusionModel, posterior: GroupPosterior, removed: Tensor) -> DiffusionModel:
    prompts = None if full.prompts is None else _numbers
    return replace(full, denoiser=GuidedDenoiser(full, posterior, removed), prompts=prompts)


def _numbers(labels: Tensor) -> Mapping[str, Tensor]:
    """Prompts as ``GuidedDenoiser`` takes them: by number, as the posterior embeds them in its own way."""
    return {"class_labels": labels}
