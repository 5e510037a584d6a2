"""``Regrouped``: which classes of a trained classifier new groups keep, and which samples are new to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from guda_lightning.data import GroupDataModule
from guda_lightning.data.grouping import Indices
from guda_lightning.errors import GroupError
from guda_lightning.posteriors.feature_moments import FeatureMoments, hashed

_SHARE = 0.1  # of the samples that no classifier was trained on, to be tested on


@dataclass(frozen=True, kw_only=True)
class Regrouped:
    """Which classes of a trained classifier new groups keep, and which samples have to be looked at.

    Attributes:
        kept: ``[kept]`` int64, classes whose samples all are there and stay together; their rows stay.
        atoms: ``[classes, groups]`` bool, the groups of each class: first of those that are kept, then of the
            new ones. Several may be in the same groups.
        fresh: Samples of the new classes, sorted.
        new_class: ``[fresh]`` int64, the class of each, counted from the first new one.
        held_out: ``[fresh]`` bool, which of them are tested on; some of every class with two or more.
        sizes: ``[classes]`` int64 samples of each class.
        tested_on_trained: New classes of whose samples the trained classifier has learnt from all.
    """

    kept: Tensor
    atoms: Tensor
    fresh: Indices
    new_class: Tensor
    held_out: Tensor
    sizes: Tensor
    tested_on_trained: int

    @classmethod
    def of(cls, moments: FeatureMoments, data: GroupDataModule, seed: int) -> Regrouped:
        """What follows from samples and groups of the training data; no image goes through the network.

        Args:
            moments: Of the trained classifier.
            data: The training data under the new groups; what is missing of the old samples is removed.
            seed: Of the samples that are held out.
        """
        table, atom = (torch.from_numpy(part) for part in data.grouping.atoms())
        place = {number: row for row, number in enumerate(moments.sample.tolist())}
        old = torch.tensor([place.get(number, -1) for number in hashed(data).tolist()])
        before = torch.where(old >= 0, moments.atom[old], -1)
        was = torch.bincount(moments.atom)
        now = torch.bincount(before[before >= 0], minlength=len(was))
        goes = torch.full_like(was, -1)
        goes[before[before >= 0]] = atom[before >= 0]  # of those that go several ways, one
        astray = (before >= 0) & (goes[before] != atom)
        whole = (now == was) & (torch.bincount(before[astray], minlength=len(was)) == 0)
        kept = whole.nonzero()[:, 0]
        is_fresh = (before < 0) | ~whole[before]
        fresh = is_fresh.nonzero()[:, 0]
        names, new_class = atom[fresh].unique(return_inverse=True)
        tested = torch.where(old[fresh] >= 0, moments.held_out[old[fresh]], False)
        held_out = _held_out(new_class, old[fresh] >= 0, tested, seed)
        learnt = held_out & (old[fresh] >= 0) & ~tested
        atoms = torch.cat([table[goes[kept]], table[names]])
        sizes = torch.cat([was[kept], torch.bincount(new_class, minlength=len(names))])
        return cls(
            kept=kept,
            atoms=atoms,
            fresh=fresh.numpy(),
            new_class=new_class,
            held_out=held_out,
            sizes=sizes,
            tested_on_trained=len(new_class[learnt].unique()),
        )

    @property
    def new(self) -> int:
        """Number of new classes."""
        return len(self.atoms) - len(self.kept)

    def refuse_single(self, names: Sequence[str]) -> None:
        """Refuse a new class that cannot be both learnt and tested.

        Args:
            names: Of the groups.

        Raises:
            GroupError: It has one sample.
        """
        single = (torch.bincount(self.new_class) == 1).nonzero()[:, 0].tolist()
        if single:
            inside = self.atoms[len(self.kept) + single[0]].tolist()
            groups = [name for name, chosen in zip(names, inside, strict=True) if chosen]
            raise GroupError(
                f"{' and '.join(groups) or 'no group'} has too few new samples to learn from and to test on",
                found="1 sample that the trained classifier does not tell apart",
                expected="at least 2 in every set of groups",
                fix="add samples, or run guda guide, which trains a classifier of these groups",
            )


def _held_out(new_class: Tensor, known: Tensor, tested: Tensor, seed: int) -> Tensor:
    """``[fresh]`` bool: what the trained classifier never saw, or of what it did not know a share; some."""
    generator = np.random.default_rng(seed)
    order, found = torch.from_numpy(generator.permutation(len(new_class))), torch.zeros_like(tested)
    for one in range(int(new_class.max()) + 1 if len(new_class) else 0):
        members = (new_class == one).nonzero()[:, 0]
        # Those that were held out first, then those that were not known, at random.
        rank = members[np.lexsort((order[members], known[members], ~tested[members]))]
        wanted = int(tested[members].sum()) + round(_SHARE * int((~known[members]).sum()))
        found[rank[: min(max(1, wanted), len(members) - 1)]] = True
    return found
