"""What every ascent is: a way to forget a query by climbing its loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from guda_lightning.attribution.gradients.flat import FlatModel
from guda_lightning.attribution.gradients.samples import GRADIENT
from guda_lightning.attribution.scoring import NoisedQueries, noised_by_plan
from guda_lightning.data import GroupDataModule
from guda_lightning.diffusion import DiffusionModel
from guda_lightning.distributed.execution import Execution
from guda_lightning.functional.outputs import OUTPUTS
from guda_lightning.functional.schedule import NoiseSchedule
from guda_lightning.functional.timesteps import TimestepPlan
from guda_lightning.types import Queries


@dataclass(frozen=True, eq=False)
class Site:
    """Where queries are forgotten.

    Attributes:
        model: A copy of the full model, in evaluation mode and on the device.
        flat: Its weights.
        data: The training data.
        seed: Of noise and of samples that are drawn.
        batch_size: Network evaluations at a time; changes no score but by rounding.
        execution: Where to compute.
    """

    model: DiffusionModel
    flat: FlatModel
    data: GroupDataModule
    seed: int
    batch_size: int
    execution: Execution

    def noised(
        self, samples: Queries, plan: TimestepPlan, seed: int, batch_size: int | None = None
    ) -> Iterable[NoisedQueries]:
        """Samples noised by a plan, in batches on the device; progress is the caller's."""
        size = batch_size or self.batch_size
        return noised_by_plan(samples, plan, seed, size, self.model.schedule, self.execution.device)

    def loss_gradient(
        self, vector: Tensor, samples: Queries, plan: TimestepPlan, seed: int, bounded: bool = False
    ) -> Loss:
        """The mean over samples of ``mean_t ‖ε − ε̂‖²``, on fresh noise, and its gradient by the weights.

        Args:
            vector: ``[weights]``.
            samples: Whose loss.
            plan: The timesteps of each.
            seed: Of their noise.
            bounded: Whether ``‖ε − ε̂‖²`` is cut off at ``‖ε‖²``, the loss of a network that predicts nothing.
        """
        leaf = vector.detach().requires_grad_()
        total, value, null = torch.zeros_like(vector), 0.0, 0.0
        of_one = plan.evaluation_shares.float() / len(samples)
        factors = of_one.repeat(len(samples)).to(vector.device).split(self.batch_size)
        for batch, factor in zip(self.noised(samples, plan, seed), factors, strict=True):
            nothing = batch.noise.flatten(1).square().sum(dim=1)
            with torch.enable_grad():
                losses = OUTPUTS["loss"](self.flat.predicted_noise(leaf, batch), batch.noise)
                loss = (factor * (torch.minimum(losses, nothing) if bounded else losses)).sum()
            total += torch.autograd.grad(loss, leaf)[0]
            value, null = value + loss.item(), null + float((factor * nothing).sum())
            self.execution.on_evaluations(GRADIENT * len(factor))
        return Loss(value, null, total)


class Loss(NamedTuple):
    """A mean loss, that of a network that predicts no noise at all, and the gradient of the first one."""

    value: float
    null: float
    gradient: Tensor


class Forgotten(NamedTuple):
    """Weights ``[weights]`` that have forgotten a query, and whether as far as configured."""

    vector: Tensor
    complete: bool


class Preparation(NamedTuple):
    """What is computed of the training samples, once.

    Attributes:
        identity: What it depends on besides model, weights and data, as JSON values.
        evaluations: Network evaluations that it costs.
        make: Computes it.
    """

    identity: Mapping[str, object]
    evaluations: int
    make: Callable[[], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Ascent(ABC):
    """How a query is forgotten. A new one is a frozen dataclass whose fields are its options.

    Attributes:
        method: Name of the scores that follow, in tables and their files.
    """

    method: ClassVar[str]

    def check(self, site: Site) -> None:  # noqa: B027  (most fit everything)
        """Refuse what does not fit a model and data.

        Raises:
            ConfigError: It does not fit.
        """

    @abstractmethod
    def evaluations(self) -> int:
        """Network evaluations that forgetting one query costs, at most."""

    @abstractmethod
    def forget(self, site: Site, query: Queries, known: Mapping[str, Tensor]) -> Forgotten:
        """Forget one query.

        Args:
            site: Where.
            query: One query, on the CPU.
            known: What ``preparation`` has made.
        """

    def preparation(self, site: Site) -> Preparation | None:
        """What it needs to know of the training samples; None, if not overridden: nothing."""
        return None


def copies_plan(schedule: NoiseSchedule, noises: int) -> TimestepPlan:
    """One noised copy for each of so many strata of timesteps, or for each timestep where those are fewer."""
    return TimestepPlan.even(schedule, min(noises, len(schedule.scored_timesteps)))
