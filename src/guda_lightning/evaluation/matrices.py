"""Scores of tables as matrices, in the order of an oracle's queries and groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from guda_lightning.errors import ConfigError
from guda_lightning.scores import ScoreTable

Tables = Mapping[str, ScoreTable]  # by the stem of their file


def matrices_of(
    tables: Tables, weighting: str, reference: ScoreTable, per: str, groups: Sequence[str] | None = None
) -> dict[str, Tensor]:
    """Scores under a weighting, in the order of the reference's queries and of some groups, or of its own.

    A table with none of the reference's weightings is compared under each of them with what it has.
    """
    order = reference.queries, reference.groups if groups is None else groups
    matrices = {}
    for name, table in tables.items():
        foreign = not set(table.weightings) & set(reference.weightings)
        names = table.weightings if foreign else [weighting] if weighting in table.weightings else []
        for chosen in names:
            label = f"{name} {chosen}" if len(names) > 1 else name
            matrices[label] = _matrix(_scaled(name, table, per).select(weighting=chosen), *order)
    return matrices


def oracle_matrices(
    tables: Tables,
    weighting: str,
    first: ScoreTable,
    per: str,
    reference: str | None,
    groups: Sequence[str] | None = None,
) -> dict[str, Tensor]:
    """Scores of the oracle's seeds; another seed than the full model's without the offset of its start.

    That offset, ELBO(full of this seed) − ELBO(full of that seed), is one number per query for all groups.
    """
    matrices = matrices_of(tables, weighting, first, "group", groups)
    if reference is not None:
        level = matrices[reference].mean(dim=1, keepdim=True)
        matrices = {name: m - m.mean(dim=1, keepdim=True) + level for name, m in matrices.items()}
    if per == "sample":
        sizes = torch.tensor([_sizes(first)[group] for group in first.groups], dtype=torch.float64)
        matrices = {name: matrix / sizes for name, matrix in matrices.items()}
    return matrices


def _sizes(table: ScoreTable) -> Mapping[str, int]:
    """Samples of each group, which ``per_sample`` refuses to do without."""
    return table.per_sample().record.group_sizes


def _scaled(name: str, table: ScoreTable, per: str) -> ScoreTable:
    """The table with scores per group or per sample."""
    if per == "group" and table.per == "sample":
        raise ConfigError(
            f"the scores of {name} are per sample",
            found="a table that per_sample() gave",
            expected="scores per group",
            fix="pass --per sample, or leave it out of --scores",
        )
    return table if table.per == per else table.per_sample()


def _matrix(part: ScoreTable, queries: Sequence[str], groups: Sequence[str]) -> Tensor:
    """Scores ``[queries, groups]`` of one weighting, in this order."""
    rows = {query: row for row, query in enumerate(part.queries)}
    columns = {group: column for column, group in enumerate(part.groups)}
    matrix = part.matrix()[[rows[query] for query in queries]]
    return matrix[:, [columns[group] for group in groups]]
