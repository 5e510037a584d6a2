"""Which groups each member of an ensemble is trained without, and where its members lie."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from guda_lightning.counterfactuals.messages import described_hparams
from guda_lightning.counterfactuals.record import RETRAIN, CounterfactualKey, CounterfactualRecord
from guda_lightning.counterfactuals.store import CounterfactualStore
from guda_lightning.errors import ConfigError, GroupError, StoreError
from guda_lightning.functional.ablation import codes, fewest_members, leave_one_out
from guda_lightning.types import JOINT


@dataclass(frozen=True, eq=False)
class EnsemblePlan:
    """Members that are each trained without some groups, so that some members never saw any given group.

    Attributes:
        groups: Names of the groups, sorted.
        codes: ``[groups, members]`` bool, which members are trained on each group.
        seed: Seed of codes and members.
    """

    groups: tuple[str, ...]
    codes: Tensor
    seed: int

    @classmethod
    def of(
        cls, groups: Iterable[str], members: int | None, seed: int, *, one_each: bool = False
    ) -> EnsemblePlan:
        """Draw the codes.

        Args:
            groups: Names of the groups, in any order.
            members: How many members; None: the fewest that serve without complementary codes, or with
                ``one_each`` one a group.
            seed: Of codes and members.
            one_each: Whether each member is trained without one group alone, instead of without half of them.

        Raises:
            ConfigError: There are too many or too few groups for so many members.
        """
        names = tuple(sorted(groups))
        if not one_each:
            members = fewest_members(len(names)) if members is None else members
            return cls(names, codes(len(names), members, seed), seed)
        if members not in (None, len(names)):
            raise ConfigError(
                "members that leave one group out are as many as groups",
                found=f"{members} members, {len(names)} groups",
                expected="one member a group",
                fix="leave out members, or leave_one_out",
            )
        return cls(names, leave_one_out(len(names)), seed)

    @property
    def members(self) -> int:
        """Number of members."""
        return self.codes.shape[1]

    @property
    def zeros(self) -> int:
        """Number of members that never saw a group."""
        return int((~self.codes[0]).sum())

    @property
    def one_each(self) -> bool:
        """Whether each member is trained without one group alone."""
        return self.zeros == 1

    @property
    def name(self) -> str:
        """What tells it from the other ensembles of its groups: ``6-members-0``, ``leave-one-out-0``."""
        return f"{'leave-one-out' if self.one_each else f'{self.members}-members'}-{self.seed}"

    @property
    def removed(self) -> list[tuple[str, ...]]:
        """The groups that each member is trained without, sorted."""
        return [
            tuple(name for name, seen in zip(self.groups, column, strict=True) if not seen)
            for column in self.codes.T.tolist()
        ]

    def unseen(self, coalition: Sequence[str]) -> list[int]:
        """Positions of the members that saw none of the groups of a coalition.

        Raises:
            GroupError: There are none, or one where others of the ensemble have several.
        """
        rows = [self.groups.index(name) for name in coalition]
        found = [member for member, seen in enumerate(self.codes[rows].any(dim=0).tolist()) if not seen]
        least = min(2, self.zeros)
        if len(found) < least:
            raise GroupError(
                f"too few members of the ensemble saw none of {JOINT.join(coalition)}",
                found=f"{len(found)} of {self.members} members",
                expected="at least 1" if least == 1 else "at least 2, for a standard error",
                fix="score fewer groups together, or make an ensemble of more members, or of another seed",
            )
        return found

    def keys(self, store: CounterfactualStore, hparams: str | None = None) -> list[CounterfactualKey]:
        """Where the members lie, all of them trained alike.

        Args:
            store: The store.
            hparams: Start of the hash of their hyper-parameters, where the store holds several.

        Raises:
            StoreError: Some are missing, or there are members of several sets of hyper-parameters.
        """
        names = [JOINT.join(groups) for groups in self.removed]
        own = [
            record
            for record in store.records()
            if _is_independent(record)
            and record.seed == self.seed
            and record.key.name in names
            and record.hparams_hash.startswith(hparams or "")
        ]
        if len({record.hparams_hash for record in own}) > 1:
            raise StoreError(
                f"members in {store.root} were made with several sets of hyper-parameters",
                found="; ".join(described_hparams(own)),
                expected="one set of hyper-parameters",
                fix="pass --attributor.init_args.hparams with the first digits of one hash",
            )
        found = {record.key.name: record.key for record in own}
        if len(found) < len(names):
            of = f", hyper-parameters {hparams}" if hparams else ""
            raise StoreError(
                f"members of the ensemble are missing in {store.root}",
                found=f"{len(found)} of {len(names)} members of seed {self.seed}{of}",
                expected=f"a member without each of {len(names)} sets of groups",
                fix="run guda ensemble with the same members, seed and leave_one_out"
                + (", or correct hparams" if hparams else ""),
            )
        return [found[name] for name in names]


def _is_independent(record: CounterfactualRecord) -> bool:
    """Whether a retrained model shares no seed with others, as a member of an ensemble must not."""
    return record.operator == RETRAIN and record.hparams.get("paired") is False
