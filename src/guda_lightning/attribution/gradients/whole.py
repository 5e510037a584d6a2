"""Influences by whole gradients: one a group."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from guda_lightning.attribution.gradients.fitted import FittedGradients
from guda_lightning.attribution.gradients.kernel import Identity, Kernel
from guda_lightning.attribution.gradients.kernels import CURVATURES, Curvature
from guda_lightning.attribution.gradients.samples import GRADIENT
from guda_lightning.attribution.scoring import NoisedQueries
from guda_lightning.data.grouping import Indices
from guda_lightning.functional.influence import relative_weights, self_influence
from guda_lightning.storage.files import sha256_json
from guda_lightning.types import Queries

_SAMPLES = 256  # training samples that are read together
_BYTES = 2**28  # of gradients of training samples beside each other


@dataclass(frozen=True, eq=False, kw_only=True)
class FittedWhole(FittedGradients):
    """``score_k(q) = (1/n) g(q)ᵀ (H + λ)⁻¹ G_k`` with one summed gradient of all weights for each group.

    Gradients are summed over each set of samples that are in the same groups; such a sum is one part of what
    is kept, the curvature another, and so is what is solved for the groups. Memory: ``4 · groups · weights``
    bytes, up to four times as much while they are solved for and written, and the curvature.
    """

    def prepare(self) -> None:
        """Sum the gradients of every group, and solve for them."""
        _ = self._directions

    def preparation(self) -> int:
        """Network evaluations that ``prepare`` still needs; a backward pass counts as two."""
        if "_directions" in vars(self) or (self._curvature and not self.parts.missing([self._solved])):
            return 0
        left = sum(len(self._atoms[name]) for name in self.parts.missing(list(self._atoms)))
        if self._curvature is not None and self.parts.missing([self.options.kernel]):
            left += self._curvature.passes * len(self.data.ids)
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
            "relative_to": self._between if relative else None,
        }

    @property
    def _curvature(self) -> Curvature | None:
        return CURVATURES.get(self.options.kernel)

    @property
    def _between(self) -> list[object]:
        """What stands between two gradients, as JSON values."""
        return [self.options.kernel, self.options.damping]

    @property
    def _solved(self) -> str:
        """Name of the part with what is solved for the groups."""
        return f"solved-{sha256_json([self._between, self.groups])[:16]}"

    @cached_property
    def _kernel(self) -> Kernel:
        """All ranks ask for it together. Its curvature is kept, and serves every damping."""
        curvature, name, where = self._curvature, self.options.kernel, self.context.execution
        if curvature is None:
            return Identity()
        model, flat, damping = self.model, self._flat, self.options.damped_by
        self.parts.make(
            [name], lambda _: curvature.fit(model, flat, self._noised, damping).state(), where.ranks
        )
        state = {key: value.to(where.device) for key, value in self.parts.load(name).items()}
        return curvature.open(state, model, flat, damping)

    @cached_property
    def _directions(self) -> Tensor:
        """``(1/n) (H + λ)⁻¹ G_k``, ``[groups, weights]``."""
        where = self.context.execution
        if self._curvature is None:
            return self._sums()
        if where.ranks.broadcast(self.parts.missing([self._solved])):
            self._solve()
        return self.parts.load(self._solved)["rows"].to(where.device)

    def _solve(self) -> None:
        """Keep what is solved for the groups; all ranks sum, and the first one solves."""
        kernel, sums = self._kernel, self._sums()
        self.parts.make([self._solved], lambda _: {"rows": kernel.solve(sums)}, self.context.execution.ranks)

    def _sums(self) -> Tensor:
        """``(1/n) G_k``, ``[groups, weights]``."""
        self.parts.make(list(self._atoms), self._sum, self.context.execution.ranks)
        total = torch.zeros(len(self.groups), self._flat.size, device=self.context.execution.device)
        for name, indices in self._atoms.items():
            of_atom = self.parts.load(name)["sum"].to(total)
            total[self._members[indices[0]].to(total.device)] += of_atom
        return total.div_(len(self.data.ids))

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
        """By name: the samples of each set of groups that a scored one is among.

        Named by their first sample: atoms are numbered in the order of the groups, which no hash knows.
        """
        _, atom = self.grouping.atoms()
        scored = self._members.any(dim=1).numpy()
        found = [np.flatnonzero(atom == number) for number in np.unique(atom[scored])]
        return {f"sum-{samples[0]:09d}": samples for samples in found}
