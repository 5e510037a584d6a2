"""Influence of groups by gradients of the full model: TracIn, TRAK, D-TRAK, DAS, RelatIF in one formula."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, asdict, dataclass
from typing import Any, Literal

from guda_lightning.attribution.attributor import AttributionContext, Attributor, training_data
from guda_lightning.attribution.elbo import scored_groups
from guda_lightning.attribution.gradients.ekfac import refuse_large_layers
from guda_lightning.attribution.gradients.fitted import FittedGradients
from guda_lightning.attribution.gradients.flat import FlatModel, refuse_spread
from guda_lightning.attribution.gradients.kernels import KernelName
from guda_lightning.attribution.gradients.stored import FittedStored
from guda_lightning.attribution.gradients.whole import FittedWhole
from guda_lightning.errors import ConfigError, check_range
from guda_lightning.functional.outputs import OutputName
from guda_lightning.functional.timesteps import TimestepPlan
from guda_lightning.scores.kinds import Influence
from guda_lightning.storage.files import slug

MOST_BYTES = 8 * 2**30  # of gradients of groups, and of matrices between features
_ELSEWHERE = (
    "groups",
    "name",
    "batch_size",
    "strata",
    "draws",
    "seed",
)  # in the record, or changes no number
_DAMPING = 0.1
_STORED = ("dims", "residual_weight", "squared")


@dataclass(frozen=True)
class GradientInfluence(Attributor):
    """What removing a group changes, to first order, by gradients of the full model alone.

    ``score_k(q) = (1/n) g(q)ᵀ (H + λ)⁻¹ G_k`` with ``G_k = Σ_{i in k} w_i ∇f(i)``: gradients of an output f,
    each the mean over timesteps and noise draws, n training samples in all.

    | preset  | output   | kernel | normalise  | residual_weight, squared | source                        |
    |---------|----------|--------|------------|--------------------------|-------------------------------|
    | tracin  | `loss`   | none   | none       | no                       | 2002.08484, last checkpoint   |
    | trak    | `loss`   | gram   | none       | no                       | 2303.14186, one model         |
    | dtrak   | `square` | gram   | none       | no                       | 2311.00500                    |
    | relatif | `loss`   | gram   | `sample`   | no                       | 2003.11630                    |
    | ekfac   | `loss`   | ekfac  | none       | no                       | 2410.13850                    |
    | das     | `mean`   | gram   | `timestep` | yes                      | 2410.18639                    |

    The score of `loss` estimates the rise of the mean over timesteps of ``‖ε − ε̂‖²``, the unit of retraining
    under ``uniform``; with the exact curvature and at an optimum it has retraining's size. On the digits
    `ekfac` had some forty times that size. Nothing else has a unit, and no size is claimed unless
    it is measured. Mirrored training data count as they are stored, which halves the cost.

    Published figures chose λ on the queries that they report; ours is chosen by LDS on other queries.

    On the digits `dtrak` named retraining's top group in .93 of the queries, `das` in .91, `relatif` in .79,
    `trak` in .77, `ekfac` in .81 and `tracin` in .28, where chance is .10 and pixel similarity .86
    (docs/benchmarks.md): gradients of the loss lose to pixels, and are there to be compared with.

    Costs a gradient, three network evaluations, for every training sample, timestep and draw, as much again
    for a kernel ``diag`` and twice for ``ekfac``, and a gradient for every query, timestep and draw. Memory:
    for ``gram``, which stores ``4 · dims`` bytes a sample, about ``3 · 8 · dims²`` bytes, a shard of
    features, and ``queries · draws · dims`` numbers, whatever the number of samples, and where scores are
    squared ``24 · groups · queries · dims`` bytes; for the others ``4 · groups · weights`` bytes, up to four
    times as much while they are solved for and written, and for ``ekfac`` ``4 · (in² + out² + in · out)`` for
    every layer.

    Args:
        output: The output f of the network.
        kernel: The curvature H: ``none`` for ``(H + λ)⁻¹ = 1``, ``diag`` the diagonal Fisher information of
            the loss, ``ekfac`` its Gauss-Newton matrix in Kronecker-factored eigenbases, ``gram`` the Gram
            matrix of the samples' projected gradients.
        normalise: What is brought to length one: the gradient of every ``timestep`` and draw, of queries as
            well; or that of every training ``sample`` by ``sqrt(gᵀ (H + λ)⁻¹ g)``, which without a kernel is
            its norm (diffusion-ReTrac, 2401.09031).
        residual_weight: Whether a sample counts by its residual, had it been left out: the root of its
            training error, divided by one minus its leverage. Kernel ``gram`` only.
        squared: Whether a group's score sums the squares of its samples' scores. Kernel ``gram`` only.
        dims: Dimensions of projected gradients, for the kernel ``gram``, which needs them.
        damping: λ relative to the mean eigenvalue of H; 0.1 if left out, by LDS on other queries
            (docs/benchmarks.md). The kernel ``none`` has none.
        strata: Strata of timesteps of a query.
        draws: Noise draws of a query in each stratum.
        training_strata: Strata of timesteps of a training sample.
        training_draws: Noise draws of a training sample in each stratum.
        batch_size: Evaluations at a time, at most: fewer where gradients of single ones take more than 1 GiB.
        seed: Seed of noise and projection.
        name: What the method is called in score tables.
        groups: Groups to score, such as ``3`` or, as one, ``3+7``; None takes all that have samples.
    """

    output: OutputName = "loss"
    kernel: KernelName = "none"
    normalise: Literal["none", "timestep", "sample"] = "none"
    residual_weight: bool = False
    squared: bool = False
    _: KW_ONLY
    dims: int | None = None
    damping: float | None = None
    strata: int = 10
    draws: int = 2
    training_strata: int = 5
    training_draws: int = 1
    batch_size: int = 64
    seed: int = 0
    name: str = "gradients"
    groups: Sequence[str] | None = None

    def __post_init__(self) -> None:
        check_range("damping", self.damping, gt=0, fix="take the usual 0.1: a tenth of the mean eigenvalue")
        if self.kernel == "none" and self.damping is not None:
            raise ConfigError(
                "the kernel none has nothing to damp",
                found=f"damping: {self.damping}",
                expected="another kernel, or no damping",
                fix="leave damping out, or take kernel: diag, ekfac or gram",
            )
        if self.kernel != "none" and self.damping is None:
            object.__setattr__(self, "damping", _DAMPING)
        check_range("batch_size", self.batch_size, ge=1, fix="take 64")
        if self.name != slug(self.name):
            raise ConfigError(
                "the name of the method cannot name a file",
                found=self.name,
                expected="lower case letters, digits, dots, dashes and underscores",
                fix=f"take {slug(self.name)}",
            )
        given = [name for name in _STORED if getattr(self, name)]
        if self.kernel == "gram":
            most = int((MOST_BYTES / 24) ** 0.5)
            if self.dims is None:
                raise ConfigError(
                    "the kernel gram needs a number of dimensions",
                    found="dims: null",
                    expected=f"1 to {most}",
                    fix="take dims: 4096, or fewer where there are few training samples",
                )
            check_range("dims", self.dims, ge=1, le=most, fix="take 4096: memory grows as 24 · dims² bytes")
        elif given:
            raise ConfigError(
                f"the kernel {self.kernel} does not have {' and '.join(given)}",
                found=", ".join(f"{name}: {getattr(self, name)}" for name in given),
                expected="kernel: gram, which stores the gradients of single samples",
                fix="take kernel: gram, or leave it out",
            )

    @property
    def damped_by(self) -> float:
        """λ relative to the mean eigenvalue; 0 where there is no kernel to damp."""
        return self.damping or 0.0

    def fit(self, context: AttributionContext) -> FittedGradients:
        """Refuse what does not fit; the training samples are looked at by ``prepare``.

        Args:
            context: The full model, the training data and, if not their own, the groups.

        Raises:
            ConfigError: There are no training data, the timesteps do not fit the schedule, the model is
                spread over processes, a layer is too large for `ekfac`, or the gradients of all groups do not
                fit into memory.
            GroupError: The groups are those of other data, or one does not exist or cannot be removed.
        """
        data, grouping = training_data(context, self.name)
        groups = scored_groups(context, self.groups)
        network, schedule = context.full.model.denoiser, context.full.model.schedule
        refuse_spread(context.full.model, context.execution, self.name)
        for plan in ((self.strata, self.draws), (self.training_strata, self.training_draws)):
            TimestepPlan.even(schedule, *plan)
        size = 4 * len(groups) * sum(weight.numel() for weight in network.parameters())
        if self.kernel != "gram" and size > MOST_BYTES:
            raise ConfigError(
                f"gradients of {len(groups)} groups by all weights do not fit into memory",
                found=f"{size / 2**30:.1f} GiB",
                expected=f"at most {MOST_BYTES / 2**30:g} GiB",
                fix="score fewer groups at a time (groups: [...]), or take kernel: gram and dims: 4096",
            )
        if self.kernel == "ekfac":
            refuse_large_layers(context.full.model, FlatModel(context.full.model))
        options = {name: value for name, value in asdict(self).items() if name not in _ELSEWHERE}
        details = Influence(
            data_hash=data.hash,
            mirrored=data.horizontal_flip,
            options={name: value for name, value in options.items() if value is not None},
        )
        common: dict[str, Any] = {
            "groups": groups,
            "method": self.name,
            "seed": self.seed,
            "options": self,
            "context": context,
            "data": data,
            "grouping": grouping,
            "details": details,
        }
        return FittedWhole(**common) if self.dims is None else FittedStored(**common, dims=self.dims)
