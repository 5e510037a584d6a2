"""``EraseDiff``: forget samples are answered with noise that is not theirs, at the least cost to the rest."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from guda_lightning.diffusion import DiffusionModel
from guda_lightning.diffusion.module import Noised
from guda_lightning.functional.surgery import constrained_factor
from guda_lightning.unlearning.bound import ForgetTerm, ObjectiveContext
from guda_lightning.unlearning.objective import NOT_USED, Objective
from guda_lightning.unlearning.surgery import SURGERY_PASSES, BoundSurgery


@dataclass(frozen=True, kw_only=True)
class EraseDiff(Objective):
    """Output uniform noise on forget samples, by steps that else are those of training on the rest.

    The gradient of a step is ``g_m + max(η − ⟨g_m, g_a⟩/‖g_a‖², 0) g_a``, with ``g_m`` that of the preserve
    term and ``g_a`` that of the forget term: where training on the rest forgets by itself, it is left
    alone. Wu et al., CVPR 2025, arXiv 2401.05779. The inner loop of the paper's first version, which only
    shifts the forget loss by a constant, is left out.

    Args:
        eta: η >= 0, how much of the forget term's gradient a step follows at least. 0.001 in the comparison
            of SISS's code on faces and MNIST.
        preserve: The term on retain samples: ``denoise`` trains on the data, ``distill`` keeps the
            student's predictions at the full model's (one more forward pass a step).
    """

    name: ClassVar[str] = "erasediff"
    forget_weight: float = field(default=1.0, init=False, metadata=NOT_USED)  # η takes its place
    eta: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("eta", self.eta >= 0, "eta >= 0")

    @property
    def full_passes(self) -> int:
        """See ``Objective.full_passes``: two backward passes more."""
        return super().full_passes + SURGERY_PASSES

    def bind(self, context: ObjectiveContext) -> BoundEraseDiff:
        """See ``Objective.bind``.

        Raises:
            ConfigError: Weights are spread over processes (FSDP2).
        """
        return BoundEraseDiff(self, context)


class BoundEraseDiff(BoundSurgery):
    """``EraseDiff`` of one counterfactual."""

    objective: EraseDiff

    def forget_term(self, noised: Noised, student: DiffusionModel, full: DiffusionModel) -> ForgetTerm:
        """Target: uniform noise in [0, 1), whatever the network predicts."""
        return ForgetTerm(self.drawn(noised.x_t.shape).to(noised.x_t.dtype))

    def factor(self, inner: Tensor, preserve_square: Tensor, forget_square: Tensor) -> Tensor:
        """See ``functional.surgery.constrained_factor``."""
        return constrained_factor(inner, forget_square, self.objective.eta)
