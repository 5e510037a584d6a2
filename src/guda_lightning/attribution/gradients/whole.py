"""Influences by whole gradients: one a group."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from guda_lightning.attribution.gradients.ekfac import EKFAC, fit_ekfac
from guda_lightning.attribution.gradients.fitted import FittedGradients
from guda_lightning.attribution.gradients.kernel import Kernel
from guda_lightning.attribution.gradients.kernels import FITS, PASSES
from guda_lightning.attribution.gradients.samples import GRADIENT
from guda_lightning.attribution.scoring import NoisedQueries
from guda_lightning.data.grouping import Indices
from guda_lightning.functional.influence import relative_weights, self_influence
from guda_lightning.storage.files import sha256_json
from guda_lightning.types import Queries

_EKFAC = "ekfac"  # name of the part with its tensors
_SAMPLES = 256  # training samples that are read together
_BYTES = 2**28  # of gradients of training samples beside each other


@dataclass(frozen=True, eq=False, kw_only=True)
class FittedWhole(FittedGradients):
    """``score_k(q) = (1/n) g(q)ᵀ (H + λ)⁻¹ G_k`` with one summed gradient of all weights for each group.

    Gradients are summed over each set of samples that are in the same groups; such a sum is one part of what
    is kept, the curvature another, and so is what is solved for the groups. Memory:
    ``2 · 4 · groups · weights`` bytes, and the curvature.
    """

    def prepare(self) -> None:
        """Sum the gradients of every group, and solve for them."""
        _ = self._directions

    def preparation(self) -> int:
        """Network evaluations that ``prepare`` still needs; a backward pass counts as two."""
        if "_directions" in vars(self) or (self._curved and not self.parts.missing([self._solved])):
            return 0
        left = sum(len(self._atoms[name]) for name in self.parts.missing(list(self._atoms)))
        if self.options.kernel != "ekfac" or self.parts.missing([_EKFAC]):
            left += PASSES[self.options.kernel] * len(self.data.ids)
        return GRADIENT * self.training_plan.evaluations * left

    def influences(self, queries: Queries) -> tuple[Tensor, Tensor]:
        """Scores of queries, and what each draw contributes to them."""
        gradients = self.gradients(self.query_plan)
        products = [found @ self._directions.T for found in gradients.each(queries)]
        terms = torch.cat(products).double().view(len(queries), -1, len(self.groups))
        terms = terms * gradients.shares.to(terms)[:, None]
        return terms.sum(dim=1).T, terms.movedim(-1, 0)

    def identity(self) -> dict[str, object]:
        """What the sums depend on."""
        relative = self.options.normalise == "sample"
        return {
            **super().identity(),
            "grouping": self.grouping.hash,
            "relative_to": self._curvature if relative else None,
        }

    @property
    def _curved(self) -> bool:
        return self.options.kernel != "none"

    @property
    def _curvature(self) -> list[object]:
        return [self.options.kernel, self.options.damping if self._curved else None]

    @property
    def _solved(self) -> str:
        """Name of the part with what is solved for the groups."""
        return f"solved-{sha256_json([self._curvature, self.groups])[:16]}"

    @cached_property
    def _kernel(self) -> Kernel:
        """All ranks ask for it together. EK-FAC, which takes longest, is kept, and serves every damping."""
        model, flat, damping = self.model, self._flat, self.options.damping
        if self.options.kernel != "ekfac":
            return FITS[self.options.kernel](model, flat, self._noised, damping)
        where = self.context.execution
        self.parts.make(
            [_EKFAC], lambda _: fit_ekfac(model, flat, self._noised, damping).state(), where.ranks
        )
        state = {key: value.to(where.device) for key, value in self.parts.load(_EKFAC).items()}
        return EKFAC.from_state(state, model, flat, damping)

    @cached_property
    def _directions(self) -> Tensor:
        """``(1/n) (H + λ)⁻¹ G_k``, ``[groups, weights]``."""
        ranks, name = self.context.execution.ranks, self._solved
        if not self._curved:
            return self._sums() / len(self.data.ids)
        if ranks.broadcast(self.parts.missing([name])):
            kernel, sums = self._kernel, self._sums()
            self.parts.make([name], lambda _: {"rows": kernel.solve(sums) / len(self.data.ids)}, ranks)
        return self.parts.load(name)["rows"].to(self.context.execution.device)

    def _sums(self) -> Tensor:
        """G_k, ``[groups, weights]``."""
        self.parts.make(list(self._atoms), self._sum, self.context.execution.ranks)
        total = torch.zeros(len(self.groups), self._flat.size, device=self.context.execution.device)
        for name, indices in self._atoms.items():
            of_atom = self.parts.load(name)["sum"].to(total)
            total[self._members[indices[0]].to(total.device)] += of_atom
        return total

    def _sum(self, atom: str) -> dict[str, Tensor]:
        """The sum of the gradients of an atom's samples, each by its own size where they are relative."""
        gradients = self.gradients(self.training_plan)
        total = torch.zeros(self._flat.size, device=self.context.execution.device, dtype=torch.float64)
        if self.options.normalise != "sample":
            for samples in self.samples(self._atoms[atom], _SAMPLES):
                total += gradients.total(samples)
        else:
            for samples in self.samples(self._atoms[atom], max(1, _BYTES // (4 * self._flat.size))):
                means = gradients.means(samples)
                weights = relative_weights(self_influence(means, self._kernel.solve(means)))
                total += weights @ means
        return {"sum": total.float()}

    def _noised(self) -> Iterator[NoisedQueries]:
        """All training samples with noise, for the curvature."""
        gradients = self.gradients(self.training_plan)
        for samples in self.samples(np.arange(len(self.data.ids)), _SAMPLES):
            yield from gradients.noised(samples)

    @cached_property
    def _members(self) -> Tensor:
        """``[samples, groups]`` bool."""
        return self.membership()

    @cached_property
    def _atoms(self) -> dict[str, Indices]:
        """By name: the samples of each set of groups that a scored one is among."""
        _, atom = self.grouping.atoms()
        scored = self._members.any(dim=1).numpy()
        return {f"sum-{number:06d}": np.flatnonzero(atom == number) for number in np.unique(atom[scored])}
