"""How a query is forgotten: up its own loss, by a preconditioned step or by bounded fine-tuning."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from guda_lightning.attribution.gradients.diagonal import Diagonal, fit_diagonal
from guda_lightning.attribution.gradients.ekfac import EKFAC, fit_ekfac
from guda_lightning.attribution.gradients.flat import FlatModel
from guda_lightning.attribution.gradients.kernel import Identity, Kernel
from guda_lightning.attribution.gradients.samples import GRADIENT
from guda_lightning.attribution.samples import seen_count, seen_samples
from guda_lightning.attribution.scoring import NoisedQueries, noised_by_plan
from guda_lightning.data import GroupDataModule
from guda_lightning.diffusion import DiffusionModel
from guda_lightning.distributed.execution import Execution
from guda_lightning.errors import ConfigError, check_range
from guda_lightning.functional.noise import seed_of
from guda_lightning.functional.outputs import OUTPUTS
from guda_lightning.functional.schedule import NoiseSchedule
from guda_lightning.functional.timesteps import TimestepPlan
from guda_lightning.types import Queries

_NUMBERS = 2**23  # of gradients of single samples at a time, 32 MiB: more costs page faults

KernelName = Literal["none", "diag", "ekfac"]
Batches = Callable[[], Iterable[NoisedQueries]]  # anew, and the same ones, at each call


class _Fit(NamedTuple):
    """How a kernel is fitted and opened again, and how many gradients of each sample it takes."""

    fit: Callable[[DiffusionModel, FlatModel, Batches, float], Diagonal | EKFAC]
    open: Callable[[Mapping[str, Tensor], DiffusionModel, FlatModel, float], Kernel]
    passes: int


_FITS: Mapping[KernelName, _Fit] = {
    "diag": _Fit(
        lambda _, flat, batches, damping: fit_diagonal(flat, batches(), damping), Diagonal.from_state, 1
    ),
    "ekfac": _Fit(fit_ekfac, EKFAC.from_state, 2),
}


@dataclass(frozen=True, eq=False)
class Site:
    """Where queries are forgotten.

    Attributes:
        model: A copy of the full model, in evaluation mode and on the device.
        flat: Its weights.
        data: The training data.
        seed: Of noise and of samples that are drawn.
        batch_size: Network evaluations at a time; changes no score but by rounding.
        execution: Where to compute.
    """

    model: DiffusionModel
    flat: FlatModel
    data: GroupDataModule
    seed: int
    batch_size: int
    execution: Execution

    def noised(
        self, samples: Queries, plan: TimestepPlan, seed: int, batch_size: int | None = None
    ) -> Iterable[NoisedQueries]:
        """Samples noised by a plan, in batches on the device; progress is the caller's."""
        size = batch_size or self.batch_size
        return noised_by_plan(samples, plan, seed, size, self.model.schedule, self.execution.device)

    def loss_gradient(
        self, vector: Tensor, samples: Queries, plan: TimestepPlan, seed: int, bounded: bool = False
    ) -> Loss:
        """The mean over samples of ``mean_t ‖ε − ε̂‖²``, on fresh noise, and its gradient by the weights.

        Args:
            vector: ``[weights]``.
            samples: Whose loss.
            plan: The timesteps of each.
            seed: Of their noise.
            bounded: Whether ``‖ε − ε̂‖²`` is cut off at ``‖ε‖²``, the loss of a network that predicts nothing.
        """
        leaf = vector.detach().requires_grad_()
        total, value, null = torch.zeros_like(vector), 0.0, 0.0
        of_one = plan.shares.repeat_interleave(plan.draws) / (plan.draws * len(samples))
        factors = of_one.float().repeat(len(samples)).to(vector.device).split(self.batch_size)
        for batch, factor in zip(self.noised(samples, plan, seed), factors, strict=True):
            nothing = batch.noise.flatten(1).square().sum(dim=1)
            with torch.enable_grad():
                losses = OUTPUTS["loss"](self.flat.predicted_noise(leaf, batch), batch.noise)
                loss = (factor * (torch.minimum(losses, nothing) if bounded else losses)).sum()
            total += torch.autograd.grad(loss, leaf)[0]
            value, null = value + loss.item(), null + float((factor * nothing).sum())
            self.execution.on_evaluations(GRADIENT * len(factor))
        return Loss(value, null, total)


class Loss(NamedTuple):
    """A mean loss, that of a network that predicts no noise at all, and the gradient of the first one."""

    value: float
    null: float
    gradient: Tensor


class Forgotten(NamedTuple):
    """Weights ``[weights]`` that have forgotten a query, and whether as far as configured."""

    vector: Tensor
    complete: bool


class Preparation(NamedTuple):
    """What is computed of the training samples, once.

    Attributes:
        identity: What it depends on besides model, weights and data, as JSON values.
        evaluations: Network evaluations that it costs.
        make: Computes it.
    """

    identity: Mapping[str, object]
    evaluations: int
    make: Callable[[], Mapping[str, Tensor]]


class Ascent(ABC):
    """How a query is forgotten. A new one is a frozen dataclass whose fields are its options.

    Attributes:
        method: Name of the scores that follow, in tables and their files.
    """

    method: ClassVar[str]

    @abstractmethod
    def check(self, schedule: NoiseSchedule) -> None:
        """Refuse noise levels that the schedule does not have.

        Raises:
            ConfigError: They do not fit.
        """

    @abstractmethod
    def evaluations(self) -> int:
        """Network evaluations that forgetting one query costs, at most."""

    @abstractmethod
    def forget(self, site: Site, query: Queries, known: Mapping[str, Tensor]) -> Forgotten:
        """Forget one query.

        Args:
            site: Where.
            query: One query, on the CPU.
            known: What ``preparation`` has made.
        """

    def preparation(self, site: Site) -> Preparation:
        """What it needs to know of the training samples; nothing, if not overridden."""
        return Preparation({}, 0, dict)


@dataclass(frozen=True)
class PreconditionedAscent(Ascent):
    """Steps up the query's loss, ``θ ← θ + α/n · (F + λ)⁻¹ ∇L(q)`` (AbU, arXiv 2406.09408, equation 6).

    ``L`` is the mean over timesteps of ``‖ε − ε̂‖²``, a sum over the numbers of a sample, so that ``α = 1`` is
    the step by which, where losses are quadratic with curvature ``F + λ``, one sample like the query is taken
    out of ``n``. Published: one step with the diagonal Fisher information and ``α = 0.01`` for a loss that is
    a mean over the ``D`` numbers of a sample, which is ``0.01 · D`` here. Ours: the damping, and one noised
    copy of the query for each of even strata of timesteps.

    Args:
        kernel: F: ``diag``, the diagonal Fisher information of the training loss; ``ekfac``, its Gauss-Newton
            curvature by EK-FAC, as in AbU+ (arXiv 2511.10721); ``none`` leaves it out.
        damping: λ relative to the mean of F; 0.1 if left out.
        rate: The step α.
        steps: Number of steps, each on fresh noise; F stays that of the full model.
        noises: Noised copies of the query in a step, one for each of as many strata of timesteps.
        fisher_samples: Training images that F is measured on, two noised copies of each; 1000 if left out.
    """

    method: ClassVar[str] = "abu"

    kernel: KernelName = "diag"
    damping: float | None = None
    rate: float = 1.0
    steps: int = 1
    noises: int = 50
    fisher_samples: int | None = None

    def __post_init__(self) -> None:
        check_range("damping", self.damping, gt=0, fix="take 0.1, of the mean of F")
        check_range("rate", self.rate, gt=0, fix="take 1")
        check_range("steps", self.steps, ge=1, fix="take 1, as published")
        check_range("noises", self.noises, ge=2, fix="take 50")
        check_range("fisher_samples", self.fisher_samples, ge=1, fix="take 1000")
        unread = [name for name in ("damping", "fisher_samples") if getattr(self, name) is not None]
        if self.kernel == "none" and unread:
            raise ConfigError(
                "an ascent without a kernel has no Fisher information to measure or to damp",
                found=f"kernel 'none' with {' and '.join(unread)}",
                expected="kernel 'none' alone, or another kernel",
                fix="leave them out, or take kernel: diag",
            )

    def check(self, schedule: NoiseSchedule) -> None:
        """Refuse more noise levels than the schedule has."""
        self._plan(schedule)

    def evaluations(self) -> int:
        """Network evaluations that forgetting one query costs."""
        return GRADIENT * self.steps * self.noises

    def preparation(self, site: Site) -> Preparation:
        """The kernel's tensors, which no damping changes."""
        if self.kernel == "none":
            return super().preparation(site)
        samples = min(self.fisher_samples or 1000, seen_count(site.data))
        identity = {"kernel": self.kernel, "samples": samples, "seed": site.seed}
        cost = GRADIENT * 2 * samples * _FITS[self.kernel].passes
        return Preparation(identity, cost, lambda: self._fitted(site, samples))

    def forget(self, site: Site, query: Queries, known: Mapping[str, Tensor]) -> Forgotten:
        """Take the steps."""
        vector, plan, kernel = site.flat.vector(), self._plan(site.model.schedule), self._kernel(site, known)
        for step in range(self.steps):
            loss = site.loss_gradient(vector, query, plan, seed_of(f"{site.seed} ascent {step}"))
            vector = vector + self.rate / len(site.data.ids) * kernel.solve(loss.gradient[None])[0]
        return Forgotten(vector, complete=True)

    @property
    def _damping(self) -> float:
        return 0.1 if self.damping is None else self.damping

    def _plan(self, schedule: NoiseSchedule) -> TimestepPlan:
        return TimestepPlan.even(schedule, self.noises)

    def _fitted(self, site: Site, samples: int) -> Mapping[str, Tensor]:
        rows = np.random.default_rng(site.seed).permutation(seen_count(site.data))[:samples]
        images = seen_samples(site.data, rows, site.model.conditional)
        size = max(1, min(site.batch_size, _NUMBERS // site.flat.size))

        def batches() -> Iterable[NoisedQueries]:
            for batch in site.noised(images, TimestepPlan.even(site.model.schedule, 2), site.seed, size):
                yield batch
                site.execution.on_evaluations(GRADIENT * len(batch.timesteps))

        return _FITS[self.kernel].fit(site.model, site.flat, batches, self._damping).state()

    def _kernel(self, site: Site, known: Mapping[str, Tensor]) -> Kernel:
        if self.kernel == "none":
            return Identity()
        state = {name: value.to(site.execution.device) for name, value in known.items()}
        return _FITS[self.kernel].open(state, site.model, site.flat, self._damping)


@dataclass(frozen=True)
class BoundedAscent(Ascent):
    """Fine-tuning by ``L(retain) − λ·min(L(q), L_null)`` (MUCS, arXiv 2605.17938).

    It ends where ``L(q)`` nears ``L_null``, the loss of a network that knows nothing of the query. Published:
    that of an untrained network, one number for all noise. Here it is ``‖ε‖²`` of each noised copy, the loss
    of a network that predicts no noise: it needs no second network, and networks start close to it. Also
    ours: Adam without weight decay or warm-up, all weights (published: those of the MLPs of a transformer),
    and a largest number of steps.

    Args:
        rate: Learning rate; published: a tenth of that of training.
        forget_weight: λ, what the query counts beside the retained samples.
        share: Of ``L_null``, where the query counts as forgotten.
        steps: Steps at most; what is not forgotten by then is scored as it is, and said.
        noises: Noised copies of the query in a step, one for each of as many strata of timesteps.
        retain: Training images in a step, all of them to choose from; each has one timestep.
    """

    method: ClassVar[str] = "mucs"

    rate: float = 1e-4
    forget_weight: float = 0.2
    share: float = 0.95
    steps: int = 200
    noises: int = 100
    retain: int = 100

    def __post_init__(self) -> None:
        check_range("rate", self.rate, gt=0, fix="take a tenth of the learning rate of training")
        check_range("forget_weight", self.forget_weight, gt=0, fix="take 0.2, as published")
        check_range("share", self.share, gt=0, le=1, fix="take 0.95, as published")
        check_range("steps", self.steps, ge=1, fix="take 200")
        check_range("noises", self.noises, ge=2, fix="take 100, as published")
        check_range("retain", self.retain, ge=1, fix="take 100, as published")

    def check(self, schedule: NoiseSchedule) -> None:
        """Refuse more noise levels than the schedule has."""
        self._plan(schedule)

    def evaluations(self) -> int:
        """Network evaluations that forgetting one query costs, at most."""
        return GRADIENT * (self.steps * (self.noises + self.retain) + self.noises)

    def forget(self, site: Site, query: Queries, known: Mapping[str, Tensor]) -> Forgotten:
        """Fine-tune until the query is forgotten; the loss of every step says whether it is."""
        plan = self._plan(site.model.schedule)
        any_timestep = TimestepPlan(
            "stratified", tuple(site.model.schedule.scored_timesteps.tolist()), (0,), 1
        )
        weights = site.flat.vector().requires_grad_()
        optimizer = torch.optim.Adam([weights], lr=self.rate)
        for step in range(self.steps + 1):
            seed = seed_of(f"{site.seed} ascent {step} {query.ids[0]}")
            forget = site.loss_gradient(weights, query, plan, seed, bounded=True)
            if forget.value >= self.share * forget.null:
                return Forgotten(weights.detach(), complete=True)
            if step < self.steps:
                samples = self._retained(site, seed)
                retain = site.loss_gradient(weights, samples, any_timestep, seed)
                weights.grad = retain.gradient - self.forget_weight * forget.gradient
                optimizer.step()
        return Forgotten(weights.detach(), complete=False)

    def _plan(self, schedule: NoiseSchedule) -> TimestepPlan:
        return TimestepPlan.even(schedule, self.noises)

    def _retained(self, site: Site, seed: int) -> Queries:
        rows = np.random.default_rng(seed).choice(
            seen_count(site.data), min(self.retain, seen_count(site.data)), replace=False
        )
        return seen_samples(site.data, rows, site.model.conditional)
