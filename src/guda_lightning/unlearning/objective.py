"""What unlearning minimises: ``L = λ · L_forget + L_preserve``.

An objective is a frozen dataclass: its fields are its hyper-parameters and its identity. Bound to the data
of one counterfactual, it gives the target of the student's output on noised forget samples. The preserve
term, the student's one forward pass and the diagnostics are shared.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from guda_lightning.data.forget_retain import ForgetData
from guda_lightning.diffusion import DiffusionModel
from guda_lightning.diffusion.module import Noised
from guda_lightning.errors import ConfigError
from guda_lightning.functional.schedule import NoiseSchedule
from guda_lightning.storage.provenance import Provenance
from guda_lightning.unlearning.hparams import as_json, is_json

Preserve = Literal["denoise", "distill"]


@dataclass(frozen=True)
class ObjectiveContext:
    """What one counterfactual is made from.

    Attributes:
        data: The training data, split into what to forget and what to retain.
        schedule: The noise schedule of student and full model.
        provenance: Hashes of the full model, its schedule and the grouping.
        device: Where the student is.
    """

    data: ForgetData
    schedule: NoiseSchedule
    provenance: Provenance
    device: torch.device

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups to forget."""
        return self.data.groups


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


def identified(
    *, by: Callable[[Any], object] | None = None, when: Callable[[Any], bool] | None = None
) -> dict[str, object]:
    """Metadata of a field of an objective that its value alone does not identify.

    As in ``field(default=None, metadata=identified(by=lambda objective: objective.weights_hash))``.

    Args:
        by: Of an objective, what identifies the field, as a JSON value: the hash of a file instead of its
            path. None: its value.
        when: Of an objective, whether the field makes a difference. None: always.
    """
    return {"by": by, "when": when}


@dataclass(frozen=True, kw_only=True)
class Objective(ABC):
    """Base of all objectives: what unlearning minimises, before there is anything to forget.

    A new objective is one file, the frozen dataclass and what it is once bound; YAML names it by
    ``class_path``::

        @dataclass(frozen=True, kw_only=True)
        class Constant(Objective):
            name: ClassVar[str] = "constant"
            value: float = 0.0

            def bind(self, context: ObjectiveContext) -> BoundObjective:
                return BoundConstant(self, context)

        class BoundConstant(BoundObjective):
            objective: Constant

            def forget_term(self, noised, student, full) -> ForgetTerm:
                return ForgetTerm(torch.full_like(noised.x_t, self.objective.value))

    Every field is part of the objective's identity, and so of what tells its counterfactuals from others in
    a store; ``identified`` declares a field that its value does not identify.

    Args:
        forget_weight: λ, the factor of the forget term, >= 0.
        preserve: The term on retain samples: ``denoise`` trains on the data, ``distill`` keeps the
            student's predictions at the full model's (one more forward pass a step).

    Attributes:
        name: Short name of the class; its name in lower case if left out.

    Raises:
        ConfigError: A field is out of range.
    """

    name: ClassVar[str]
    forget_weight: float = 1.0
    preserve: Preserve = "denoise"

    def __init_subclass__(cls) -> None:
        if "name" not in vars(cls):
            cls.name = cls.__name__.lower()

    def __post_init__(self) -> None:
        choices = get_args(Preserve)
        self.require("preserve", self.preserve in choices, " or ".join(choices))
        self.require("forget_weight", self.forget_weight >= 0, "a number >= 0; the objective sets the sign")

    def require(self, name: str, fulfilled: bool, expected: str) -> None:
        """Refuse the value of a field, for ``__post_init__``.

        Args:
            name: Name of the field.
            fulfilled: Whether its value can be used.
            expected: Which values can be, for the message.

        Raises:
            ConfigError: It cannot.
        """
        if not fulfilled:
            raise ConfigError(
                f"invalid {name} of {type(self).__name__}",
                found=getattr(self, name),
                expected=expected,
                fix=f"set objective.init_args.{name} to such a value",
            )

    @property
    def variant(self) -> str:
        """Which of its methods the objective is: ``name``, where it has one method only."""
        return self.name

    @property
    def operator(self) -> str:
        """Its name in the store and in score tables: the variant, and an unusual preserve term."""
        usual = type(self).preserve
        return self.variant if self.preserve == usual else f"{self.variant}_{self.preserve}"

    @property
    def sized(self) -> bool:
        """Whether scores by its counterfactuals have the size of retraining by construction."""
        return False

    @property
    def hparams(self) -> dict[str, object]:
        """Its identity beside its class: its fields, as JSON values.

        Raises:
            ConfigError: A field is no JSON value, and nothing else identifies it.
        """
        found = {}
        for one in fields(self):
            by, when = one.metadata.get("by"), one.metadata.get("when")
            if when is not None and not when(self):
                continue
            found[one.name] = as_json(getattr(self, one.name) if by is None else by(self))
            if not is_json(found[one.name]):
                raise ConfigError(
                    f"{one.name} of {type(self).__name__} does not identify counterfactuals",
                    found=repr(getattr(self, one.name)),
                    expected="a text, a finite number, or lists, mappings and dataclasses of these",
                    fix="declare it as field(metadata=guda_lightning.unlearning.identified(by=...))",
                )
        return found

    @property
    def full_passes(self) -> int:
        """Forward passes of the full model that a step makes, each of one batch."""
        return int(self.preserve == "distill")

    @abstractmethod
    def bind(self, context: ObjectiveContext) -> BoundObjective:
        """Take what the objective needs of one counterfactual, and refuse what does not fit.

        Called for every group before any is forgotten, so what takes long is left to the first step.

        Args:
            context: Data, noise schedule, provenance and device.

        Raises:
            GudaError: The objective cannot forget these groups.
        """


class BoundObjective(ABC):
    """An objective and the data of one counterfactual: all that is derived from both lives here.

    Args:
        objective: The hyper-parameters; a subclass annotates its own class.
        context: What the counterfactual is made from.
    """

    def __init__(self, objective: Objective, context: ObjectiveContext) -> None:
        self.objective, self.context = objective, context

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
        total = self.objective.forget_weight * forget_loss + preserve
        target_rms = term.target.flatten(1).square().mean(dim=1).sqrt().mean()
        parts = {"forget": forget_loss, "preserve": preserve, "target_rms": target_rms, **term.diagnostics}
        return ObjectiveLoss(total, parts)
