"""``SalUn``: any objective, on the weights alone that matter most to the forget set."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from guda_lightning.data import UnlearnDataModule
from guda_lightning.diffusion import DiffusionModel
from guda_lightning.diffusion.module import Noised, noised
from guda_lightning.distributed.ranks import ALONE
from guda_lightning.errors import ConfigError
from guda_lightning.unlearning.bound import BoundObjective, ForgetTerm, ObjectiveContext, ObjectiveLoss
from guda_lightning.unlearning.objective import NOT_USED, Objective, Preserve, identified
from guda_lightning.unlearning.surgery import loss_gradient, trainable

_MASK = "salun"  # in the state


def _inner_identity(salun: SalUn) -> dict[str, object]:
    return {"class": type(salun.objective).__name__, **salun.objective.hparams}


@dataclass(frozen=True, kw_only=True)
class SalUn(Objective):
    """Saliency unlearning (Fan et al., ICLR 2024, arXiv 2310.12508): a mask around any objective.

    Only the share of the trained weights with the largest ``|∇L|`` may change, L being the full model's
    denoising loss on the forget set, each sample noised once; all others keep the full model's bits. An
    adapter (LoRA) is masked by the gradients of its own weights at its start.

    Args:
        objective: What is minimised.
        share: In (0, 1], of the weights that may change. 0.5 in the paper.
    """

    name: ClassVar[str] = "salun"
    forget_weight: float = field(default=1.0, init=False, metadata=NOT_USED)  # that of the objective counts
    preserve: Preserve = field(default="denoise", init=False, metadata=NOT_USED)
    objective: Objective = field(metadata=identified(by=_inner_identity))
    share: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("share", 0 < self.share <= 1, "0 < share <= 1")
        self.require("objective", not isinstance(self.objective, SalUn), "an objective that masks no weights")

    @property
    def variant(self) -> str:
        """``salun_`` and the operator of the objective."""
        return f"{self.name}_{self.objective.operator}"

    @property
    def full_passes(self) -> int:
        """As of the objective; the one pass over the forget set is not of a step."""
        return self.objective.full_passes

    def bind(self, context: ObjectiveContext) -> BoundSalUn:
        """See ``Objective.bind``.

        Raises:
            ConfigError: Weights are spread over processes (FSDP2), or data without the model's labels.
            GudaError: The objective cannot forget these groups.
        """
        context.require_whole_weights("SalUn")
        if context.conditional and not isinstance(context.data, UnlearnDataModule):
            raise ConfigError(
                "SalUn needs the conditions of the samples to forget",
                found=f"datamodule {type(context.data).__name__}, and a conditional model",
                expected="training data that say them",
                fix="train on GroupDataModule(...).unlearning(groups)",
            )
        return BoundSalUn(self, context, self.objective.bind(context))


class BoundSalUn(BoundObjective):
    """``SalUn`` of one counterfactual.

    Args:
        objective: The hyper-parameters.
        context: What the counterfactual is made from.
        inner: The bound objective that is masked.
    """

    objective: SalUn

    def __init__(self, objective: SalUn, context: ObjectiveContext, inner: BoundObjective) -> None:
        super().__init__(objective, context)
        self.inner = inner
        self.state = inner.state
        self._kept: list[Tensor] | None = None  # of each weight, the numbers that stay

    def forget_term(self, noised: Noised, student: DiffusionModel, full: DiffusionModel) -> ForgetTerm | None:
        """That of the objective."""
        return self.inner.forget_term(noised, student, full)

    def loss(
        self, student: DiffusionModel, full: DiffusionModel, forget: Noised, retain: Noised
    ) -> ObjectiveLoss:
        """That of the objective; the first one finds the mask."""
        if self._kept is None:
            found = self.state.get(_MASK)
            mask = self._mask(student, len(forget.x0)) if found is None else found.to(self.context.device)
            self.state[_MASK] = mask
            masks = self._masks(student)
            self._kept = [
                weight.detach()[~mask] for weight, mask in zip(trainable(student), masks, strict=True)
            ]
        self.inner.generator = self.generator
        return self.inner.loss(student, full, forget, retain)

    def after_step(self, student: DiffusionModel) -> None:
        """Put back what may not change: weight decay moves weights without a gradient, too."""
        self.inner.after_step(student)
        assert self._kept is not None
        with torch.no_grad():
            for weight, mask, kept in zip(trainable(student), self._masks(student), self._kept, strict=True):
                weight.masked_scatter_(~mask, kept)

    def _masks(self, student: DiffusionModel) -> list[Tensor]:
        weights = trainable(student)
        parts = self.state[_MASK].split([weight.numel() for weight in weights])
        return [part.view_as(weight) for part, weight in zip(parts, weights, strict=True)]

    def _mask(self, student: DiffusionModel, batch_size: int) -> Tensor:
        """``[weights]`` bool, which may change: exactly the share, rounded, with the largest gradients."""
        size = self._saliency(student, batch_size).abs()
        mask = torch.zeros(len(size), dtype=torch.bool, device=size.device)
        mask[size.topk(round(self.objective.share * len(size))).indices] = True
        return mask

    def _saliency(self, student: DiffusionModel, batch_size: int) -> Tensor:
        """``[weights]``, the gradient of the denoising loss over the forget set, the same on all ranks."""
        data, ranks, device = self.context.data, self.context.ranks, self.context.device
        images, labels = data.forget_images(), None
        if (
            self.context.conditional
            and isinstance(data, UnlearnDataModule)
            and data.parent.labels is not None
        ):
            times = len(images) // len(data.forget)  # mirrored ones follow
            labels = data.parent.labels[data.forget].repeat(times).to(device)
        generator = torch.Generator(device).manual_seed(0)
        # Noised all at once: the mask depends neither on the batch size nor on how many share the work.
        samples = noised(images.to(device), labels, student.schedule, generator)
        total = torch.zeros(sum(weight.numel() for weight in trainable(student)), device=device)
        training = student.denoiser.training
        student.denoiser.eval()  # without dropout, but with gradients
        mine = torch.arange(len(images))[ranks.rank :: ranks.count]  # of few images, perhaps none
        for start in range(0, len(mine), batch_size):
            rows = mine[start : start + batch_size]
            batch = samples.take(rows)
            output = student.output(batch.x_t, batch.timesteps, batch.labels)
            error = (output - batch.target(student.prediction)).square().mean()
            total += loss_gradient(student, error, ALONE) * len(rows)
        student.denoiser.train(training)
        return ranks.mean(total)
