"""What unlearning minimises: ``L = λ · L_forget + L_preserve``.

An objective is a frozen dataclass: its fields are its hyper-parameters and its identity. Bound to the data
of one counterfactual, it gives the target of the student's output on noised forget samples. The preserve
term, the student's one forward pass and the diagnostics are shared.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, get_args

from guda_lightning.errors import ConfigError
from guda_lightning.unlearning.bound import BoundObjective, ObjectiveContext
from guda_lightning.unlearning.hparams import as_json, is_json

Preserve = Literal["denoise", "distill"]


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


NOT_USED = identified(when=lambda _: False)  # metadata of a field that the objective does not read


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
        """What a step computes beside learning from both batches, in forward passes of one batch.

        Those of the full model; a further backward pass counts as two.
        """
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
