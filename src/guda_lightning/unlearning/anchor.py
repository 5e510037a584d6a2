"""``Anchor``: a prompt to forget is answered as the full model answers a prompt of another style (GUDA-C)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar, Literal, get_args

import torch

from guda_lightning.data import PromptTemplate, UnlearnDataModule
from guda_lightning.diffusion import DiffusionModel
from guda_lightning.diffusion.module import Noised
from guda_lightning.errors import ConfigError
from guda_lightning.latent.clip import ClipText
from guda_lightning.latent.prompts import PromptTable
from guda_lightning.unlearning.anchor_prompts import AnchorPrompts, Borrowed, Matched, Nearest, Styleless
from guda_lightning.unlearning.bound import BoundObjective, ForgetTerm, ObjectiveContext
from guda_lightning.unlearning.objective import Objective, Preserve, identified

Strategy = Literal["weighted_style", "uniform_style", "style_removed", "matched_retain"]


def _measures_nearness(anchor: Anchor) -> bool:
    return anchor.strategy == "weighted_style"


def _borrows_words(anchor: Anchor) -> bool:
    return anchor.strategy in ("weighted_style", "uniform_style")


@dataclass(frozen=True, kw_only=True)
class Anchor(Objective):
    """Redirect prompts of the forgotten group to the full model's answer under an anchor prompt.

    ``λ ‖ε_θ(x_t, c_f) − ε_full(x_t, c_a)‖² + ‖ε_θ(x_t, c) − ε_full(x_t, c)‖²``, the second term on retain
    samples and the same x_t on both sides of the first. The anchor prompt c_a keeps the content of c_f:

    - ``weighted_style``: descriptors of a retain style, drawn the more often the nearer it is by CLIP;
    - ``uniform_style``: descriptors of any retain style;
    - ``style_removed``: no words for a style;
    - ``matched_retain``: the prompt of the same picture in another style, found by sample ids that differ
      only in the name of the group, such as ``Van_Gogh/Dogs/3.jpg``.

    Args:
        forget_weight: λ, the factor of the forget term, >= 0.
        preserve: The term on retain samples: ``denoise`` trains on the data, ``distill`` keeps the
            student's predictions at the full model's (one more forward pass a step).
        strategy: How the anchor prompt is composed.
        clip: Folder or hub name of the CLIP that ``weighted_style`` measures nearness with.
        beta: β of its softmax over cosines, >= 0.
        eta: η in [0, 1], the share of its draws that is uniform.
        descriptors: Words of a style in an anchor prompt, drawn at random, >= 1.
        template: How prompts are taken apart and put together.

    Raises:
        ConfigError: An argument is out of range, or ``weighted_style`` has no CLIP.
    """

    name: ClassVar[str] = "anchor"
    strategy: Strategy = "weighted_style"
    preserve: Preserve = "distill"
    clip: str | None = field(
        default=None, metadata=identified(by=lambda anchor: anchor.clip_text.hash, when=_measures_nearness)
    )
    beta: float = field(default=2.0, metadata=identified(when=_measures_nearness))  # these three: the paper's
    eta: float = field(default=0.3, metadata=identified(when=_measures_nearness))
    descriptors: int = field(default=3, metadata=identified(when=_borrows_words))
    template: PromptTemplate = field(
        default=PromptTemplate(), metadata=identified(by=lambda anchor: anchor.template.templates)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("strategy", self.strategy in get_args(Strategy), ", ".join(get_args(Strategy)))
        self.require("beta", 0 <= self.beta < math.inf, "beta >= 0")
        self.require("eta", 0 <= self.eta <= 1, "0 <= eta <= 1")
        self.require("descriptors", self.descriptors >= 1, "descriptors >= 1")
        if _measures_nearness(self) and self.clip is None:
            raise ConfigError(
                "anchors weighted by nearness need a CLIP",
                found="clip=null",
                expected="the folder or the hub name of a CLIP",
                fix="set objective.init_args.clip, or strategy to uniform_style",
            )

    @property
    def variant(self) -> str:
        """The strategy."""
        return self.strategy

    @cached_property
    def clip_text(self) -> ClipText:
        """The text tower that measures nearness, frozen: read once for all groups."""
        assert self.clip is not None
        return ClipText(self.clip)

    @property
    def full_passes(self) -> int:
        """See ``Objective.full_passes``: one more on forget samples, under the anchor prompt."""
        return super().full_passes + 1

    def bind(self, context: ObjectiveContext) -> BoundAnchor:
        """See ``Objective.bind``: takes the prompts apart and lists the styles that stay.

        Raises:
            ConfigError: The data has no prompts.
            DataError: A prompt fits no template, a style has no words, or a picture has no match.
        """
        data = context.data
        table = data.parent.prompts if isinstance(data, UnlearnDataModule) else None
        if not isinstance(data, UnlearnDataModule) or not isinstance(table, PromptTable):
            raise ConfigError(
                "anchors need training data with prompts",
                found=f"{type(data).__name__} of images without texts",
                expected="prompts, in which an anchor replaces the style",
                fix="take a LatentDataModule, or another objective such as ReTrack",
            )
        return BoundAnchor(self, context, self._prompts(data, table), table)

    def _prompts(self, data: UnlearnDataModule, table: PromptTable) -> AnchorPrompts:
        match self.strategy:
            case "matched_retain":
                return Matched(data)
            case "style_removed":
                return Styleless(data, table, self.template)
            case "uniform_style":
                return Borrowed(data, table, self.template, self.descriptors)
            case "weighted_style":
                clip, how = self.clip_text, (self.beta, self.eta)
                return Nearest(data, table, self.template, self.descriptors, clip, *how)


class BoundAnchor(BoundObjective):
    """``Anchor`` of one counterfactual.

    Args:
        objective: The hyper-parameters.
        context: What the counterfactual is made from.
        anchors: Draws an anchor prompt for each forget sample.
        table: Embeddings of prompts.
    """

    def __init__(
        self, objective: Anchor, context: ObjectiveContext, anchors: AnchorPrompts, table: PromptTable
    ) -> None:
        super().__init__(objective, context)
        self.anchors, self._table = anchors, table

    def forget_term(self, noised: Noised, student: DiffusionModel, full: DiffusionModel) -> ForgetTerm:
        """Target: the full model's output on the same x_t under the anchor prompts."""
        anchors = self.anchors(noised)
        distinct = list(dict.fromkeys(anchors))  # few texts, drawn again and again
        numbers = torch.tensor([distinct.index(text) for text in anchors], device=noised.x_t.device)
        anchored = replace(full, prompts=self._table.once(distinct))
        return ForgetTerm(anchored.output(noised.x_t, noised.timesteps, numbers))
