"""What unlearning minimises: ``L = λ · L_forget + L_preserve``.

Every objective fills one slot, ``forget_term``: a target for the student's output on noised forget
samples. The preserve term, the student's one forward pass and the diagnostics are shared.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from guda_lightning.diffusion import DiffusionModel
from guda_lightning.diffusion.module import Noised
from guda_lightning.errors import ConfigError
from guda_lightning.functional.objectives import density_ratio, nearest_neighbours, retain_posterior
from guda_lightning.functional.prediction import to_output
from guda_lightning.functional.schedule import NoiseSchedule
from guda_lightning.storage.provenance import Provenance

Preserve = Literal["denoise", "distill"]


@dataclass(frozen=True)
class ForgetTerm:
    """A target for the student on forget samples.

    Attributes:
        target: ``[batch, ...]``, in the form that the network predicts.
        weight: ``[batch]`` factor of each sample's squared error.
        diagnostics: Scalars to log.
    """

    target: Tensor
    weight: Tensor
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


class Objective(ABC):
    """Base of all objectives.

    Args:
        forget_weight: λ, the factor of the forget term, >= 0.
        preserve: The term on retain samples: ``denoise`` trains on the data, ``distill`` keeps the
            student's predictions at the full model's (one more forward pass a step).
    """

    def __init__(self, forget_weight: float = 1.0, preserve: Preserve = "denoise") -> None:
        if preserve not in get_args(Preserve):
            raise ConfigError(
                "the preserve term is unknown",
                found=preserve,
                expected=" or ".join(get_args(Preserve)),
                fix="set objective.init_args.preserve to one of them",
            )
        if not forget_weight >= 0:
            raise ConfigError(
                "the weight of the forget term is out of range",
                found=forget_weight,
                expected="forget_weight >= 0",
                fix="set objective.init_args.forget_weight; neggrad already has its sign",
            )
        self.forget_weight = forget_weight
        self.preserve: Preserve = preserve

    @property
    def name(self) -> str:
        """The operator's name in the store and in score tables."""
        name = _NAMES.get(type(self), type(self).__name__.lower())
        return name if self.preserve == "denoise" else f"{name}_distill"

    @property
    def hparams(self) -> dict[str, object]:
        """Everything that sets this objective apart from another of its class."""
        return {"forget_weight": self.forget_weight, "preserve": self.preserve}

    def check(self, num_retain: int) -> None:  # noqa: B027  (most objectives accept any retain set)
        """Refuse a retain set that the objective cannot work with, before anything is loaded.

        Args:
            num_retain: Samples in the retain set.
        """

    def read(self, data: object) -> None:  # noqa: B027  (most need no more than clean samples)
        """Look at the data besides its samples, before anything is loaded, and refuse what does not fit.

        Args:
            data: The datamodule that pairs forget and retain samples.
        """

    @property
    def full_passes(self) -> int:
        """Forward passes of the full model that a step makes, each of one batch."""
        return int(self.preserve == "distill")

    def bind(  # noqa: B027  (most need nothing from outside)
        self,
        groups: Sequence[str],
        schedule: NoiseSchedule,
        made_from: Provenance,
        device: torch.device,
    ) -> None:
        """Read what the objective needs from outside, before the first step.

        Args:
            groups: Names of the groups to forget.
            schedule: The models' noise schedule.
            made_from: Full model, schedule and grouping of this unlearning.
            device: Where the student is.
        """

    def prepare(self, forget: Tensor, retain: Tensor) -> None:  # noqa: B027  (most need no data at hand)
        """Take the clean data, ``[samples, ...]`` each, on the CPU, before the first step."""

    @abstractmethod
    def forget_term(self, batch: Noised, student: DiffusionModel, full: DiffusionModel) -> ForgetTerm | None:
        """Target for noised forget samples, without gradients; None where nothing is asked of them."""

    def preserve_target(self, batch: Noised, student: DiffusionModel, full: DiffusionModel) -> Tensor:
        """Target for noised retain samples, without gradients, in the form that the network predicts."""
        if self.preserve == "distill":
            return full.output(batch.x_t, batch.timesteps, batch.labels)
        return plain_target(batch, student)

    def loss(
        self, student: DiffusionModel, full: DiffusionModel, forget: Noised, retain: Noised
    ) -> ObjectiveLoss:
        """The loss of one step.

        Args:
            student: The model that unlearns.
            full: The frozen full model.
            forget: Noised samples of the group.
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
        forget_loss = (term.weight * per_sample).mean()
        preserve = (on_retain - preserve_target).square().mean()
        total = self.forget_weight * forget_loss + preserve
        target_norm = term.target.flatten(1).square().mean(dim=1).sqrt().mean()
        parts = {"forget": forget_loss, "preserve": preserve, "target_rms": target_norm, **term.diagnostics}
        return ObjectiveLoss(total, parts)


class Finetune(Objective):
    """No forget term: train on the retain set alone. The honest baseline.

    Distillation would leave it nothing to learn: the student begins as the full model.
    """

    def __init__(self) -> None:
        super().__init__(forget_weight=0.0)

    def forget_term(self, batch: Noised, student: DiffusionModel, full: DiffusionModel) -> None:
        """Nothing is asked of forget samples."""


class ReTrack(Objective):
    """Redirect forget samples to what an ideal model of the retain set alone would predict (GUDA-U).

    Args:
        forget_weight: λ, the factor of the forget term.
        preserve: As in ``Objective``.
        neighbours: Sum over the K retain samples nearest to each clean forget sample; null sums over
            all of them, which is exact.
        kl_cap: Shrink every correction to ``sqrt(2 * kl_cap)`` as the paper's code does (1.0 there); null
            leaves it, since a cap that binds takes the effect away with the size (docs/decisions.md).
        density_ratio: Weigh each sample by ``q_t(x_t | retain) / q_t(x_t | all)``, as full ReTrack does.
    """

    def __init__(
        self,
        forget_weight: float = 1.0,
        preserve: Preserve = "denoise",
        neighbours: int | None = None,
        kl_cap: float | None = None,
        density_ratio: bool = False,
    ) -> None:
        super().__init__(forget_weight, preserve)
        self.neighbours, self.kl_cap, self.density_ratio = neighbours, kl_cap, density_ratio
        for name, value in (("neighbours", neighbours), ("kl_cap", kl_cap)):
            if value is not None and not value > 0:
                raise ConfigError(
                    f"{name} of ReTrack is out of range",
                    found=value,
                    expected=f"{name} > 0, or null",
                    fix=f"set objective.init_args.{name}, or leave it out",
                )
        if density_ratio and neighbours is not None:
            raise ConfigError(
                "the density ratio needs the whole retain set",
                found=f"density_ratio=True with neighbours={neighbours}",
                expected="neighbours=null, or density_ratio=False",
                fix="remove objective.init_args.neighbours or objective.init_args.density_ratio",
            )

    @property
    def hparams(self) -> dict[str, object]:
        """See ``Objective.hparams``."""
        own = {"neighbours": self.neighbours, "kl_cap": self.kl_cap, "density_ratio": self.density_ratio}
        return {**super().hparams, **own}

    def check(self, num_retain: int) -> None:
        """Refuse more neighbours than there are retain samples."""
        if self.neighbours is not None and self.neighbours > num_retain:
            raise ConfigError(
                "ReTrack asks for more neighbours than the retain set has samples",
                found=f"neighbours={self.neighbours}, retain set of {num_retain}",
                expected=f"neighbours <= {num_retain}",
                fix="lower objective.init_args.neighbours, or set it to null to sum over all",
            )

    def bind(
        self,
        groups: Sequence[str],
        schedule: NoiseSchedule,
        made_from: Provenance,
        device: torch.device,
    ) -> None:
        """Refuse a schedule with timesteps without noise, where there are no weights over retain samples."""
        clean = (schedule.sigma == 0).nonzero().flatten().tolist()
        if clean:
            raise ConfigError(
                "ReTrack needs noise at every timestep",
                found=f"none at timestep {clean[0]} of {len(schedule)}",
                expected="sigma > 0",
                fix="train the full model with a noise schedule whose first step adds noise",
            )

    def prepare(self, forget: Tensor, retain: Tensor) -> None:
        """Keep the flattened sets, in the precision that distances between near-duplicates need."""
        self._forget, self._retain = forget.flatten(1).double(), retain.flatten(1).double()

    def forget_term(self, batch: Noised, student: DiffusionModel, full: DiffusionModel) -> ForgetTerm:
        """Target: the posterior mean over retain samples and the noise that leads from it to x_t."""
        self._forget, self._retain = self._forget.to(batch.x_t.device), self._retain.to(batch.x_t.device)
        x_t, x0 = batch.x_t.flatten(1), batch.x0.flatten(1)
        gamma, sigma = batch.gamma.flatten(1), batch.sigma.flatten(1)
        # Searched for each batch, one matrix product: mirrored samples have mirrored neighbours.
        rows = None if self.neighbours is None else nearest_neighbours(x0, self._retain, self.neighbours)
        posterior = retain_posterior(x_t, x0, gamma, sigma, self._retain, rows, self.kl_cap)
        mean = posterior.mean.view_as(batch.x0)
        noise = (batch.x_t - batch.gamma * mean) / batch.sigma
        weight = torch.ones_like(gamma.flatten())
        diagnostics = {
            "effective_neighbours": posterior.effective_neighbours.mean(),
            "underflow": posterior.underflow.float().mean(),
        }
        if self.density_ratio:
            of_forget = retain_posterior(x_t, x0, gamma, sigma, self._forget)
            sizes = len(self._retain), len(self._forget)
            ratio = density_ratio(posterior.log_density, of_forget.log_density, *sizes)
            weight = ratio.to(weight.dtype)
            diagnostics["density_ratio"] = ratio.mean()
        target = to_output(mean, noise, batch.gamma, batch.sigma, student.prediction)
        return ForgetTerm(target, weight, diagnostics)


class ZeroTarget(Objective):
    """Output zero on forget samples: no noise at all, for a network that predicts noise.

    What ReTrack without a log-sum-exp turns into in high dimensions, and so perhaps what the paper's
    numbers come from (docs/decisions.md).

    Args:
        forget_weight: λ, the factor of the forget term.
        preserve: As in ``Objective``.
    """

    def __init__(self, forget_weight: float = 0.03, preserve: Preserve = "denoise") -> None:
        super().__init__(forget_weight, preserve)

    def forget_term(self, batch: Noised, student: DiffusionModel, full: DiffusionModel) -> ForgetTerm:
        """Target: zero, whatever the network predicts (ε̂ = 0 would be infinite for a flow at s = 1)."""
        return ForgetTerm(torch.zeros_like(batch.x_t), torch.ones(len(batch.x_t), device=batch.x_t.device))


class NegGrad(Objective):
    """Ascend the denoising loss on forget samples.

    Args:
        forget_weight: λ, the factor of the ascent.
        preserve: As in ``Objective``.
    """

    def __init__(self, forget_weight: float = 0.03, preserve: Preserve = "denoise") -> None:
        super().__init__(forget_weight, preserve)

    def forget_term(self, batch: Noised, student: DiffusionModel, full: DiffusionModel) -> ForgetTerm:
        """Target: the true one, with a negative weight."""
        return ForgetTerm(plain_target(batch, student), -torch.ones(len(batch.x_t), device=batch.x_t.device))


def plain_target(batch: Noised, model: DiffusionModel) -> Tensor:
    """What ordinary training would have the model output."""
    return to_output(batch.x0, batch.noise, batch.gamma, batch.sigma, model.prediction)


_NAMES: dict[type[Objective], str] = {
    Finetune: "finetune",
    ReTrack: "retrack",
    ZeroTarget: "zero_target",
    NegGrad: "neggrad",
}
