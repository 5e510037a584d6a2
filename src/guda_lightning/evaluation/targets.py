"""Groups of queries: whom a training group may serve badly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from guda_lightning.data.group_metadata import read_group_metadata
from guda_lightning.data.group_names import requested_groups
from guda_lightning.errors import GroupError, QueryError
from guda_lightning.functional.curation import pseudo_groups

FEWEST = 2  # queries of a target group: fewer have no spread
PSEUDO = ("pseudo-group 1", "pseudo-group 2")
_TABLES = (".csv", ".tsv", ".jsonl")


@dataclass(frozen=True, eq=False)
class Targets:
    """Disjoint groups of queries.

    Attributes:
        names: One each.
        members: ``[targets, queries]`` bool.
        weighted: Those that should be served better, of at least ``FEWEST`` queries; the others are shown
            beside them.
        origin: Where the groups come from, in words.
    """

    names: tuple[str, ...]
    members: Tensor
    weighted: tuple[str, ...]
    origin: str

    def __post_init__(self) -> None:
        counts = dict(zip(self.names, self.members.sum(dim=1).tolist(), strict=True))
        few = [name for name in self.weighted if counts[name] < FEWEST]
        if few:
            raise GroupError(
                f"the target group '{few[0]}' has too few queries for an interval",
                found=f"{counts[few[0]]} of {self.members.shape[1]} queries",
                expected=f"at least {FEWEST}, better tens",
                fix="score more queries, or pass --target with their groups"
                if self.names == PSEUDO
                else "score more queries of it with guda attribute, or leave the group out",
            )

    @classmethod
    def of(cls, requested: str | None, queries: Sequence[str], scores: Tensor, losses: Tensor) -> Targets:
        """What the user calls the target.

        Args:
            requested: A table with the columns ``id`` and ``group``; names of folders of the queries, such as
                ``3,7``; or None for pseudo-groups.
            queries: Names of the queries.
            scores: ``[queries, groups]``, which pseudo-groups follow from.
            losses: ``[queries]``, by which these are numbered.

        Raises:
            GroupError: A group is unknown, has too few queries, or shares some with another one.
            DataError: The table cannot be read, or names an unknown query.
            QueryError: The queries are in no folders.
        """
        if requested is None:
            return cls._pseudo(scores, losses)
        if Path(requested).suffix.lower() in _TABLES:
            return cls._of_table(Path(requested), queries)
        return cls._of_folders(requested, queries)

    @classmethod
    def _of_table(cls, path: Path, queries: Sequence[str]) -> Targets:
        groups = read_group_metadata(path, queries, "id", "group", ";")
        for query, names in zip(queries, groups, strict=True):
            if len(names) > 1:
                raise GroupError(
                    f"the query '{query}' is in two target groups",
                    found=f"'{names[0]}' and '{names[1]}' in {path}",
                    expected="one group a query: the variance of a mean over both would be wrong",
                    fix=f"name the combination, such as '{names[0]} and {names[1]}'",
                )
        names = tuple(sorted({name for of_query in groups for name in of_query}))
        return cls._from([of_query[0] if of_query else None for of_query in groups], names, str(path))

    @classmethod
    def _of_folders(cls, requested: str, queries: Sequence[str]) -> Targets:
        folders = [str(PurePosixPath(query).parent) for query in queries]
        names = tuple(sorted(set(folders) - {"."}))
        if not names:
            raise QueryError(
                "the queries do not tell which target group they belong to",
                found=f"queries in no folder, such as '{queries[0]}'",
                expected="ids such as 3/0001, of images in a folder a group",
                fix="score such a folder with guda attribute --queries FOLDER, pass --target FILE with the "
                "columns id and group, or leave out --target for pseudo-groups",
            )
        weighted = tuple(requested_groups(requested, names))
        shown = tuple(name for name in names if name in weighted or folders.count(name) >= FEWEST)
        return cls._from(folders, shown, "folders of the queries", weighted)

    @classmethod
    def _pseudo(cls, scores: Tensor, losses: Tensor) -> Targets:
        side = pseudo_groups(scores)
        if not side.any():
            raise GroupError(
                "the queries cannot be split into pseudo-groups",
                found=f"scores of {len(side)} queries that are the same but for their size",
                expected="queries that different groups serve",
                fix="score more queries, or pass --target with their groups",
            )
        if losses[side].mean() < losses[~side].mean():
            side = ~side
        return cls(PSEUDO, torch.stack([side, ~side]), PSEUDO, "signs of the scores' first component")

    @classmethod
    def _from(
        cls,
        owners: Sequence[str | None],
        names: tuple[str, ...],
        origin: str,
        weighted: tuple[str, ...] | None = None,
    ) -> Targets:
        members = torch.tensor([[owner == name for owner in owners] for name in names])
        return cls(names, members, weighted or names, origin)
