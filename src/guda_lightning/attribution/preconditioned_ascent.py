"""Forgetting a query by steps up its loss, preconditioned by a curvature of the training loss."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from torch import Tensor

from guda_lightning.attribution.ascents import Ascent, Forgotten, Preparation, Site, copies_plan
from guda_lightning.attribution.gradients.ekfac import refuse_large_layers
from guda_lightning.attribution.gradients.kernel import Identity, Kernel
from guda_lightning.attribution.gradients.kernels import CURVATURES
from guda_lightning.attribution.gradients.samples import GRADIENT
from guda_lightning.attribution.samples import seen_count, seen_samples
from guda_lightning.attribution.scoring import NoisedQueries
from guda_lightning.errors import ConfigError, check_range
from guda_lightning.functional.noise import seed_of
from guda_lightning.functional.timesteps import TimestepPlan
from guda_lightning.types import Queries

_NUMBERS = 2**23  # of gradients of single samples at a time, 32 MiB: more costs page faults

KernelName = Literal["none", "diag", "ekfac"]


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
        noises: Noised copies of the query in a step, one for each of as many strata of timesteps; at most
            one for each timestep.
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

    def check(self, site: Site) -> None:
        """Refuse layers that are too large for `ekfac`."""
        if self.kernel == "ekfac":
            refuse_large_layers(site.model, site.flat)

    def evaluations(self) -> int:
        """Network evaluations that forgetting one query costs."""
        return GRADIENT * self.steps * self.noises

    def preparation(self, site: Site) -> Preparation | None:
        """The kernel's tensors, which no damping changes."""
        if self.kernel == "none":
            return None
        samples = min(self.fisher_samples or 1000, seen_count(site.data))
        identity = {"kernel": self.kernel, "samples": samples, "seed": site.seed}
        cost = GRADIENT * 2 * samples * CURVATURES[self.kernel].passes
        return Preparation(identity, cost, lambda: self._fitted(site, samples))

    def forget(self, site: Site, query: Queries, known: Mapping[str, Tensor]) -> Forgotten:
        """Take the steps."""
        vector, kernel = site.flat.vector(), self._kernel(site, known)
        plan = copies_plan(site.model.schedule, self.noises)
        for step in range(self.steps):
            loss = site.loss_gradient(vector, query, plan, seed_of(f"{site.seed} ascent {step}"))
            vector = vector + self.rate / len(site.data.ids) * kernel.solve(loss.gradient[None])[0]
        return Forgotten(vector, complete=True)

    @property
    def _damping(self) -> float:
        return 0.1 if self.damping is None else self.damping

    def _fitted(self, site: Site, samples: int) -> Mapping[str, Tensor]:
        rows = np.random.default_rng(site.seed).permutation(seen_count(site.data))[:samples]
        images = seen_samples(site.data, rows, site.model.conditional)
        size = max(1, min(site.batch_size, _NUMBERS // site.flat.size))

        def batches() -> Iterable[NoisedQueries]:
            for batch in site.noised(images, TimestepPlan.even(site.model.schedule, 2), site.seed, size):
                yield batch
                site.execution.on_evaluations(GRADIENT * len(batch.timesteps))

        return CURVATURES[self.kernel].fit(site.model, site.flat, batches, self._damping).state()

    def _kernel(self, site: Site, known: Mapping[str, Tensor]) -> Kernel:
        if self.kernel == "none":
            return Identity()
        state = {name: value.to(site.execution.device) for name, value in known.items()}
        return CURVATURES[self.kernel].open(state, site.model, site.flat, self._damping)
