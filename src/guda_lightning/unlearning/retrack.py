"""``ReTrack``: forget samples are redirected to what a model of the retain set would predict (GUDA-U)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from torch import Tensor

from guda_lightning.diffusion import DiffusionModel
from guda_lightning.diffusion.module import Noised
from guda_lightning.errors import ConfigError
from guda_lightning.functional.objectives import density_ratio, nearest_neighbours, retain_posterior
from guda_lightning.functional.prediction import implied_noise, to_output
from guda_lightning.unlearning.bound import BoundObjective, ForgetTerm, ObjectiveContext
from guda_lightning.unlearning.objective import Objective


@dataclass(frozen=True, kw_only=True)
class ReTrack(Objective):
    """Redirect forget samples to what an ideal model of the retain set alone would predict (GUDA-U).

    Args:
        forget_weight: λ, the factor of the forget term, >= 0.
        preserve: The term on retain samples: ``denoise`` trains on the data, ``distill`` keeps the
            student's predictions at the full model's (one more forward pass a step).
        neighbours: Sum over the K retain samples nearest to each clean forget sample; null sums over
            all of them, which is exact.
        kl_cap: Shrink every correction to ``sqrt(2 * kl_cap)`` as the paper's code does (1.0 there); null
            leaves it, since a cap that binds takes the effect away with the size (docs/decisions.md).
        density_ratio: Weigh each sample by ``q_t(x_t | retain) / q_t(x_t | all)``, as full ReTrack does.
    """

    name: ClassVar[str] = "retrack"
    neighbours: int | None = None
    kl_cap: float | None = None
    density_ratio: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in (("neighbours", self.neighbours), ("kl_cap", self.kl_cap)):
            self.require(name, value is None or value > 0, f"{name} > 0, or null")
        if self.density_ratio and self.neighbours is not None:
            raise ConfigError(
                "the density ratio needs the whole retain set",
                found=f"density_ratio=True with neighbours={self.neighbours}",
                expected="neighbours=null, or density_ratio=False",
                fix="remove objective.init_args.neighbours or objective.init_args.density_ratio",
            )

    def bind(self, context: ObjectiveContext) -> BoundReTrack:
        """See ``Objective.bind``.

        Raises:
            ConfigError: A timestep without noise, where there are no weights over retain samples, or more
                neighbours than there are retain samples.
        """
        context.require_noise("ReTrack")
        num_retain = len(context.data.grouping.retain(context.groups))
        if self.neighbours is not None and self.neighbours > num_retain:
            raise ConfigError(
                "ReTrack sums over more neighbours than the retain set has samples",
                found=f"neighbours={self.neighbours}, retain set of {num_retain}",
                expected=f"neighbours <= {num_retain}",
                fix="lower objective.init_args.neighbours, or set it to null to sum over all",
            )
        return BoundReTrack(self, context)


class BoundReTrack(BoundObjective):
    """``ReTrack`` of one counterfactual."""

    objective: ReTrack

    @cached_property
    def _forget(self) -> Tensor:
        return self._flat(self.context.data.forget_images())

    @cached_property
    def _retain(self) -> Tensor:
        return self._flat(self.context.data.retain_images())

    def _flat(self, images: Tensor) -> Tensor:
        """``[samples, dims]`` float64: the precision that distances between near-duplicates need."""
        return images.to(self.context.device).flatten(1).double()

    def forget_term(self, noised: Noised, student: DiffusionModel, full: DiffusionModel) -> ForgetTerm:
        """Target: the posterior mean over retain samples and the noise that leads from it to x_t."""
        neighbours, retain = self.objective.neighbours, self._retain
        x_t, x0 = noised.x_t.flatten(1), noised.x0.flatten(1)
        gamma, sigma = noised.gamma.flatten(1), noised.sigma.flatten(1)
        # Searched for each batch, one matrix product: mirrored samples have mirrored neighbours.
        rows = None if neighbours is None else nearest_neighbours(x0, retain, neighbours)
        posterior = retain_posterior(x_t, x0, gamma, sigma, retain, rows, self.objective.kl_cap)
        mean = posterior.mean.view_as(noised.x0)
        noise = implied_noise(noised.x_t, mean, noised.gamma, noised.sigma)
        target = to_output(mean, noise, noised.gamma, noised.sigma, student.prediction)
        diagnostics = {
            "effective_neighbours": posterior.effective_neighbours.mean(),
            "underflow": posterior.underflow.float().mean(),
        }
        if not self.objective.density_ratio:
            return ForgetTerm(target, diagnostics=diagnostics)
        of_forget = retain_posterior(x_t, x0, gamma, sigma, self._forget)
        sizes = len(retain), len(self._forget)
        ratio = density_ratio(posterior.log_density, of_forget.log_density, *sizes)
        return ForgetTerm(target, ratio.to(gamma.dtype), {**diagnostics, "density_ratio": ratio.mean()})
