"""Which group a query itself belongs to, where its label or its folder says so."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import PurePosixPath

from guda_lightning.types import Queries


def groups_of_queries(
    queries: Queries, groups: Collection[str], class_names: Sequence[str] = ()
) -> list[str | None]:
    """The group that each query belongs to; None where nobody knows.

    Args:
        queries: Their labels and ids, such as ``3/0001`` of an image in a folder ``3``.
        groups: Names of the groups.
        class_names: What the labels are called; empty where labels are no classes.
    """
    labels: list[int | None] = [None] * len(queries)
    if queries.labels is not None and class_names:
        labels = queries.labels.tolist()
    called = [None if label is None else class_names[label] for label in labels]
    return [
        next((name for name in (label, *_folders(query)) if name in groups), None)
        for query, label in zip(queries.ids, called, strict=True)
    ]


def _folders(query: str) -> list[str]:
    """The folder of a query with all that it lies in, then the names of these one by one, innermost first."""
    folder = PurePosixPath(query).parent
    return [str(folder), *reversed(folder.parts)]
