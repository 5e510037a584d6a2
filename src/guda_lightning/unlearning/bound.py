"""An objective once it is bound to the data of one counterfactual: the loss of a step, and its parts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from guda_lightning.data.forget_retain import ForgetData
from guda_lightning.diffusion import DiffusionModel
from guda_lightning.diffusion.module import Noised
from guda_lightning.distributed.ranks import ALONE, Ranks
from guda_lightning.errors import ConfigError
from guda_lightning.functional.schedule import NoiseSchedule
from guda_lightning.storage.provenance import Provenance

if TYPE_CHECKING:
    from guda_lightning.unlearning.objective import Objective


@dataclass(frozen=True)
class ObjectiveContext:
    """What one counterfactual is made from.

    Attributes:
        data: The training data, split into what to forget and what to retain.
        schedule: The noise schedule of student and full model.
        provenance: Hashes of the full model, its schedule and the grouping.
        device: Where the student is.
        conditional: Whether student and full model take class labels or prompts.
        ranks: The processes that share a batch.
        num_labels: How many class labels the full model has embeddings of; None where that is unknown.
    """

    data: ForgetData
    schedule: NoiseSchedule
    provenance: Provenance
    device: torch.device
    conditional: bool = False
    ranks: Ranks = ALONE
    num_labels: int | None = None

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups to forget."""
        return self.data.groups

    def require_noise(self, objective: str) -> None:
        """Refuse a schedule with a timestep of σ = 0, for objectives that divide by it.

        Args:
            objective: Name of the objective, for the message.

        Raises:
            ConfigError: There is such a timestep.
        """
        clean = (self.schedule.sigma == 0).nonzero().flatten().tolist()
        if clean:
            raise ConfigError(
                f"{objective} needs noise at every timestep",
                found=f"none at timestep {clean[0]} of {len(self.schedule)}",
                expected="sigma > 0",
                fix="train the full model with a noise schedule whose first step adds noise",
            )

    def require_whole_weights(self, objective: str) -> None:
        """Refuse weights that are spread over processes, for objectives that compare whole gradients.

        Args:
            objective: Name of the objective, for the message.

        Raises:
            ConfigError: Every process holds a part of the weights only.
        """
        if self.ranks.mesh is not None:
            raise ConfigError(
                f"{objective} looks at all weights at once, which no process holds under fsdp2",
                found=f"weights spread over {self.ranks.count} processes",
                expected="all weights on every process",
                fix="set trainer.strategy to ddp, or take an objective such as ReTrack",
            )


@dataclass(frozen=True)
class ForgetTerm:
    """A target for the student on forget samples.

    Attributes:
        target: ``[batch, ...]``, in the form that the network predicts.
        weight: ``[batch]`` factor of each sample's squared error; None weighs all samples by 1.
        diagnostics: Scalars to log.
    """

    target: Tensor
    weight: Tensor | None = None
    diagnostics: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class ObjectiveLoss:
    """The loss of one step and its parts, all scalars.

    Attributes:
        total: What is minimised.
        parts: ``forget`` (where there is a forget term), ``preserve`` and the objective's diagnostics.
    """

    total: Tensor
    parts: dict[str, Tensor]


class BoundObjective(ABC):
    """An objective and the data of one counterfactual: all that is derived from both lives here.

    Args:
        objective: The hyper-parameters; a subclass annotates its own class.
        context: What the counterfactual is made from.

    Attributes:
        generator: Of the step, the same on all ranks; None: torch's own.
        state: What a training that goes on from a checkpoint needs besides its weights, by name.
    """

    def __init__(self, objective: Objective, context: ObjectiveContext) -> None:
        self.objective, self.context = objective, context
        self.generator: torch.Generator | None = None
        self.state: dict[str, Tensor] = {}

    @abstractmethod
    def forget_term(self, noised: Noised, student: DiffusionModel, full: DiffusionModel) -> ForgetTerm | None:
        """Target for noised forget samples; None leaves them out. Called without gradients.

        Args:
            noised: Forget samples.
            student: The model that unlearns.
            full: The frozen full model.
        """

    def preserve_target(self, noised: Noised, student: DiffusionModel, full: DiffusionModel) -> Tensor:
        """Target for noised retain samples. Called without gradients.

        Args:
            noised: Retain samples.
            student: The model that unlearns.
            full: The frozen full model.

        Returns:
            ``[batch, ...]``, in the form that the network predicts.
        """
        if self.objective.preserve == "distill":
            return full.output(noised.x_t, noised.timesteps, noised.labels)
        return noised.target(student.prediction)

    def forget_factor(self, student: DiffusionModel, preserve: Tensor, forget: Tensor) -> Tensor | float:
        """What the forget loss is multiplied by in this step, λ; a constant to the step's gradient.

        Args:
            student: The model that unlearns.
            preserve: The preserve loss, a scalar with its graph.
            forget: The forget loss, a scalar with its graph.
        """
        return self.objective.forget_weight

    def after_step(self, student: DiffusionModel) -> None:  # noqa: B027  (most change weights by the loss alone)
        """Change weights after a step of the optimizer.

        Args:
            student: The model that unlearns.
        """

    def loss(
        self, student: DiffusionModel, full: DiffusionModel, forget: Noised, retain: Noised
    ) -> ObjectiveLoss:
        """The loss of one step.

        Args:
            student: The model that unlearns.
            full: The frozen full model.
            forget: Noised samples of the groups to forget.
            retain: Noised samples of the rest.
        """
        with torch.no_grad():
            term = self.forget_term(forget, student, full)
            preserve_target = self.preserve_target(retain, student, full)
        if term is None:
            output = student.output(retain.x_t, retain.timesteps, retain.labels)
            preserve = (output - preserve_target).square().mean()
            return ObjectiveLoss(preserve, {"preserve": preserve})
        # One pass over both halves: smaller batches cost nearly as much as the joint one.
        labels = (
            None
            if forget.labels is None or retain.labels is None
            else torch.cat([forget.labels, retain.labels])
        )
        output = student.output(
            torch.cat([forget.x_t, retain.x_t]), torch.cat([forget.timesteps, retain.timesteps]), labels
        )
        on_forget, on_retain = output.split([len(forget.x0), len(retain.x0)])
        per_sample = (on_forget - term.target).square().flatten(1).mean(dim=1)
        forget_loss = (per_sample if term.weight is None else term.weight * per_sample).mean()
        preserve = (on_retain - preserve_target).square().mean()
        target_rms = term.target.flatten(1).square().mean(dim=1).sqrt().mean()
        parts = {"target_rms": target_rms, **term.diagnostics}
        return self.combined(student, preserve, forget_loss, parts)

    def combined(
        self, student: DiffusionModel, preserve: Tensor, forget: Tensor, diagnostics: dict[str, Tensor]
    ) -> ObjectiveLoss:
        """``L_preserve + λ · L_forget`` with λ from ``forget_factor``, logged where it differs by step.

        Args:
            student: The model that unlearns.
            preserve: The preserve loss, a scalar with its graph.
            forget: The forget loss, a scalar with its graph.
            diagnostics: Scalars to log.
        """
        factor = self.forget_factor(student, preserve, forget)
        parts = {"forget": forget, "preserve": preserve, **diagnostics}
        if isinstance(factor, Tensor):
            parts["factor"] = factor
        return ObjectiveLoss(factor * forget + preserve, parts)

    def drawn(self, shape: torch.Size) -> Tensor:
        """Uniform numbers in [0, 1): all ranks together draw what one process draws for the whole batch.

        Args:
            shape: Whose first dimension is this process's share of the batch.

        Returns:
            ``shape``, float32 on the student's device.
        """
        ranks = self.context.ranks
        whole = (shape[0] * ranks.count, *shape[1:])
        return torch.rand(whole, generator=self.generator, device=self.context.device)[
            ranks.rank :: ranks.count
        ]
