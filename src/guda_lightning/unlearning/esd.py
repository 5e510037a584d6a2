"""``ESD``: a condition to forget is answered as if it were guided away from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from guda_lightning.data import UnlearnDataModule
from guda_lightning.diffusion import DiffusionModel
from guda_lightning.diffusion.model import NO_PROMPT
from guda_lightning.diffusion.module import Noised
from guda_lightning.errors import ConfigError
from guda_lightning.unlearning.bound import BoundObjective, ForgetTerm, ObjectiveContext
from guda_lightning.unlearning.objective import Objective, Preserve


@dataclass(frozen=True, kw_only=True)
class ESD(Objective):
    """Erased Stable Diffusion (Gandikota et al., ICCV 2023, arXiv 2303.07345), on noised forget samples.

    Target of a forget sample with condition c: ``ε_full(x_t, ∅) − η (ε_full(x_t, c) − ε_full(x_t, ∅))``, of
    the same frozen full model. The condition ∅ of a text-to-image model is the empty prompt; that of a
    class-conditional one is the label that stood for a dropped class while it was trained, by convention the
    one after the last class. A model that never saw such a label has no prediction without a class, and is
    refused: an average over other classes would be far from one where x_t shows its class.

    Args:
        forget_weight: λ, the factor of the forget term, >= 0. 0.3 in GUDA's comparison on CIFAR-10, with Adam
            at 3e-5; the paper of ESD has no preserve term and Adam at 1e-5.
        preserve: The term on retain samples: ``denoise`` trains on the data, ``distill`` keeps the
            student's predictions at the full model's (one more forward pass a step).
        eta: η >= 0, how far beyond ∅ the target lies. 1 in both papers.
        null_label: The label that stands for no class, of a class-conditional model.
    """

    name: ClassVar[str] = "esd"
    preserve: Preserve = "denoise"
    forget_weight: float = 0.3
    eta: float = 1.0
    null_label: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("eta", self.eta >= 0, "eta >= 0")
        self.require("null_label", self.null_label is None or self.null_label >= 0, "a label >= 0, or null")

    @property
    def full_passes(self) -> int:
        """See ``Objective.full_passes``: two more on forget samples, with and without their condition."""
        return super().full_passes + 2

    def bind(self, context: ObjectiveContext) -> BoundESD:
        """See ``Objective.bind``.

        Raises:
            ConfigError: The full model takes no condition, or there is no label for none that it has an
                embedding of.
        """
        data = context.data
        parent = data.parent if isinstance(data, UnlearnDataModule) else None
        prompted = parent is not None and parent.prompts is not None
        if not (context.conditional or prompted):
            raise ConfigError(
                "ESD turns a condition round, and the full model takes none",
                found="an unconditional full model",
                expected="a full model with class labels or prompts",
                fix="take another objective, such as ReTrack or EraseDiff",
            )
        if prompted:
            return BoundESD(self, context, NO_PROMPT)
        if self.null_label is None:
            raise ConfigError(
                "ESD needs what the full model predicts without a class",
                found="null_label=null",
                expected="the label that stood for a dropped class while the full model was trained",
                fix="set objective.init_args.null_label, or take another objective, such as ReTrack",
            )
        if parent is not None and self.null_label < parent.num_classes:
            raise ConfigError(
                "the label for no class is that of a class",
                found=f"null_label={self.null_label}, of {parent.num_classes} classes",
                expected=f"null_label >= {parent.num_classes}",
                fix="set objective.init_args.null_label to what stood for a dropped class in training",
            )
        if context.num_labels is not None and self.null_label >= context.num_labels:
            raise ConfigError(
                "the full model has no embedding of the label for no class",
                found=f"null_label={self.null_label}, and embeddings of {context.num_labels} labels",
                expected=f"null_label < {context.num_labels}",
                fix="train the full model with one label more (num_class_embeds) that stands for a dropped "
                "class, or take another objective, such as ReTrack",
            )
        return BoundESD(self, context, self.null_label)


class BoundESD(BoundObjective):
    """``ESD`` of one counterfactual.

    Args:
        objective: The hyper-parameters.
        context: What the counterfactual is made from.
        null: Number of the prompt, or label, that stands for no condition.
    """

    objective: ESD

    def __init__(self, objective: ESD, context: ObjectiveContext, null: int) -> None:
        super().__init__(objective, context)
        self._null = null

    def forget_term(self, noised: Noised, student: DiffusionModel, full: DiffusionModel) -> ForgetTerm:
        """Target: beyond the full model's output without a condition, as seen from that with its own."""
        assert noised.labels is not None
        null = torch.full_like(noised.labels, self._null)
        without = full.output(noised.x_t, noised.timesteps, null)
        conditioned = full.output(noised.x_t, noised.timesteps, noised.labels)
        return ForgetTerm(without - self.objective.eta * (conditioned - without))
