"""Which training sample belongs to which groups."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from guda_lightning.data.group_metadata import read_group_metadata
from guda_lightning.data.group_names import GroupNames, is_readable, unknown_group
from guda_lightning.errors import GroupError, check_range
from guda_lightning.storage.files import sha256_json

Indices = NDArray[np.int64]


class Grouping:
    """Groups of training samples; they may overlap, be empty, and leave samples out. Immutable.

    Args:
        members: Group name to the indices of its samples, each in ``0..num_samples-1``. The order of the
            names is kept, the order of the indices is not.
        num_samples: Number of training samples, at least 1.

    Raises:
        GroupError: No groups, an unnamed group, two whose names look the same, an index out of range or named
            twice.
    """

    def __init__(self, members: Mapping[str, Sequence[int] | Indices], num_samples: int) -> None:
        if not members or num_samples < 1:
            raise GroupError(
                "a grouping needs a group and a sample",
                found=f"{len(members)} groups over {num_samples} samples",
                expected="at least one group and one sample",
                fix="check the labels, folders or metadata that the groups come from",
            )
        self._members = {name: _checked(name, indices, num_samples) for name, indices in members.items()}
        self._known = GroupNames(self._members)
        self._num_samples = num_samples

    @classmethod
    def from_labels(cls, labels: Sequence[str], names: Sequence[str] | None = None) -> Grouping:
        """Make one group per label: a partition.

        Args:
            labels: One label per sample.
            names: All labels in the order wanted, also those without samples; default: the sorted labels.

        Raises:
            GroupError: A label is not among the names.
        """
        if names is None:
            names = sorted(set(labels))
        return cls._from_names([(label,) for label in labels], names)

    @classmethod
    def from_callable(
        cls, function: Callable[[str], str | Iterable[str] | None], sample_ids: Sequence[str]
    ) -> Grouping:
        """Ask a function for the groups of each sample; the names are sorted.

        Args:
            function: Sample id to the name of its group, to the names of its groups, or to None for no group.
            sample_ids: One id per sample.

        Example:
            >>> from guda_lightning.data import Grouping
            >>> ids = ["cat/0", "dog/0", "cat/1"]
            >>> grouping = Grouping.from_callable(lambda name: name.split("/")[0], ids)
            >>> {name: grouping.size(name) for name in grouping.names}
            {'cat': 2, 'dog': 1}
        """
        answers = [function(sample_id) for sample_id in sample_ids]
        groups = [(answer,) if isinstance(answer, str) else tuple(answer or ()) for answer in answers]
        return cls._from_names(groups, sorted(set().union(*groups)))

    @classmethod
    def from_metadata(
        cls,
        path: str | Path,
        sample_ids: Sequence[str],
        *,
        id_column: str = "id",
        group_column: str = "group",
        separator: str = ";",
    ) -> Grouping:
        """Read the groups from a ``.csv``, ``.tsv`` or ``.jsonl`` file; the names are sorted.

        A sample in several groups has several rows, names joined by the separator, or a JSON list of names.
        A sample without a row, or with an empty one, is in no group.

        Args:
            path: The file; UTF-8.
            sample_ids: One id per sample.
            id_column: Column of the sample's id.
            group_column: Column of its group or groups.
            separator: Text between the names of several groups.

        Raises:
            DataError: The file is missing or broken, lacks a column, names no sample, or repeats itself.
            GroupError: No sample has a group.
        """
        groups = read_group_metadata(path, sample_ids, id_column, group_column, separator)
        return cls._from_names(groups, sorted(set().union(*groups)))

    @classmethod
    def _from_names(cls, groups: Sequence[Sequence[str]], names: Sequence[str]) -> Grouping:
        members: dict[str, list[int]] = {name: [] for name in names}
        for sample, sample_groups in enumerate(groups):
            for name in sample_groups:
                if name not in members:
                    raise unknown_group(name, names)
                members[name].append(sample)
        return cls(members, len(groups))

    @property
    def names(self) -> tuple[str, ...]:
        """Group names, in order."""
        return tuple(self._members)

    @property
    def num_samples(self) -> int:
        """Number of training samples, those without a group included."""
        return self._num_samples

    @property
    def known(self) -> GroupNames:
        """What texts mean among the names."""
        return self._known

    def __len__(self) -> int:
        return len(self._members)

    def __repr__(self) -> str:
        return f"Grouping({len(self)} groups over {self.num_samples} samples)"

    def coalition(self, text: str) -> tuple[str, ...]:
        """The groups that a text names: one group, or several joined by ``+`` and removed together, sorted.

        Raises:
            GroupError: No names, an unknown or empty group, groups that together cover every sample, or a
                text that means other groups as well.
        """
        names = self._known.coalition(text)
        self.check(names)
        return names

    def size(self, name: str) -> int:
        """Number of samples in a group."""
        return len(self._group(name))

    @cached_property
    def hash(self) -> str:
        """Hash of who belongs where (sha256); the order of the groups does not enter."""
        members = {name: indices.tolist() for name, indices in self._members.items()}
        return sha256_json({"num_samples": self.num_samples, "members": members})

    def check(self, names: Sequence[str]) -> None:
        """Refuse groups that cannot be removed from the training data.

        Raises:
            GroupError: No names, an unknown or empty group, or groups that together cover every sample.
        """
        self.forget(names)

    def forget(self, names: Sequence[str]) -> Indices:
        """Return the samples in any of these groups, sorted.

        Raises:
            GroupError: No names, an unknown or empty group, or groups that together cover every sample.
        """
        if isinstance(names, str) or not names:
            raise GroupError(
                "invalid group names: expected a list",
                found=repr(names),
                expected="a list of one or more group names",
                fix=f"name groups, such as ['{self.names[0]}']",
            )
        for name in names:
            if self.size(name) == 0:
                raise GroupError(
                    f"group '{name}' has no samples",
                    found="0 samples",
                    expected="at least 1: removing an empty group changes nothing",
                    fix="leave it out, or raise the limit on the number of samples",
                )
        forget = np.unique(np.concatenate([self._group(name) for name in names]))
        if len(forget) == self.num_samples:
            raise GroupError(
                f"the groups {', '.join(names)} cover all training samples",
                found=f"{len(forget)} of {self.num_samples} samples",
                expected="some samples left to train on",
                fix="remove fewer groups at once",
            )
        return forget

    def retain(self, names: Sequence[str]) -> Indices:
        """Return the samples in none of these groups, sorted.

        Raises:
            GroupError: No names, an unknown or empty group, or groups that together cover every sample.
        """
        return np.setdiff1d(np.arange(self.num_samples), self.forget(names), assume_unique=True)

    def members_hash(self, names: Sequence[str]) -> str:
        """Hash of the samples to forget (sha256)."""
        return sha256_json(self.forget(names).tolist())

    def membership(self) -> NDArray[np.bool_]:
        """Return who is in which group: ``[samples, groups]``."""
        table = np.zeros((self.num_samples, len(self)), dtype=np.bool_)
        for column, indices in enumerate(self._members.values()):
            table[indices, column] = True
        return table

    def atoms(self) -> tuple[NDArray[np.bool_], Indices]:
        """Return the distinct sets of groups that samples are in, "no group" included if some are in none.

        Returns:
            ``[atoms, groups]``, the groups of each atom, and ``[samples]``, the atom of each sample.
        """
        table, atom = np.unique(self.membership(), axis=0, return_inverse=True)
        return table, atom.reshape(-1).astype(np.int64)

    def take(self, indices: Sequence[int] | Indices) -> Grouping:
        """Return the same groups over some of the samples, renumbered in the order given."""
        columns = self.membership()[np.asarray(indices, dtype=np.int64)].T
        members = {name: np.flatnonzero(column) for name, column in zip(self.names, columns, strict=True)}
        return Grouping(members, len(indices))

    def permuted(self, seed: int, name: str) -> Grouping:
        """Deal the samples' memberships to random samples: groups that mean nothing, for a placebo test.

        Sizes, overlaps and the number of samples without a group stay as they are.

        Args:
            seed: Which of the deals, at least 0; the same seed gives the same one.
            name: Put before the name of each group: ``name/group``.

        Raises:
            ConfigError: A negative seed.
        """
        fix = "number the placebo partitions from 0"
        check_range("the seed of a permuted grouping", seed, ge=0, symbol="seed", fix=fix)
        order = np.random.default_rng(seed).permutation(self.num_samples)
        members = {f"{name}/{group}": order[indices] for group, indices in self._members.items()}
        return Grouping(members, self.num_samples)

    def _group(self, name: str) -> Indices:
        if name not in self._members:
            raise unknown_group(name, self.names)
        return self._members[name]


def _checked(name: str, indices: Sequence[int] | Indices, num_samples: int) -> Indices:
    if not isinstance(name, str) or not is_readable(name):
        raise GroupError(
            "invalid group name: expected a string",
            found=ascii(name),
            expected="a readable text",
            fix="give every group a name",
        )
    given = np.asarray(indices)
    if given.size == 0:
        given = given.astype(np.int64)
    if given.ndim != 1 or given.dtype.kind not in "iu":
        raise GroupError(
            f"the members of group '{name}' are not sample indices",
            found=f"{given.dtype} of shape {given.shape}",
            expected="a list of whole numbers",
            fix="give the position of each sample in the training data",
        )
    members = np.unique(given).astype(np.int64)
    if len(members) and (members[0] < 0 or members[-1] >= num_samples):
        raise GroupError(
            f"group '{name}' has members that do not exist",
            found=f"indices from {members[0]} to {members[-1]}",
            expected=f"indices from 0 to {num_samples - 1}",
            fix="give the position of each sample in the training data",
        )
    if len(members) < len(given):
        raise GroupError(
            f"group '{name}' names a sample twice",
            found=f"{len(given)} indices, {len(members)} of them different",
            expected="each sample once per group",
            fix="remove the repeated indices",
        )
    members.setflags(write=False)
    return members
