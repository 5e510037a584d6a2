"""The columns of a score table: their types, what they may hold, and matrices from and to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from guda_lightning.errors import ConfigError, NumericsError
from guda_lightning.scores.squared_errors import refuse_repeats

SCHEMA = pa.schema(
    {
        "query": pa.string(),
        "group": pa.string(),
        "score": pa.float64(),
        "stderr": pa.float64(),
        "n_draws": pa.int64(),
        "method": pa.string(),
        "weighting": pa.string(),
        "seed": pa.int64(),
    }
)
_KEY = ["query", "group", "method", "weighting", "seed"]


def refuse_unusable(table: pa.Table) -> None:
    """Refuse columns that are not those of a score table.

    Raises:
        ConfigError: Names or types differ, there are nulls, or a row is there several times.
        NumericsError: A score or standard error is not finite, or a standard error is negative.
    """
    found = table.schema.remove_metadata()
    if found != SCHEMA or any(column.null_count for column in table.columns):
        raise ConfigError(
            "the columns are not those of a score table",
            found=", ".join(f"{field.name}: {field.type}" for field in found),
            expected=", ".join(f"{field.name}: {field.type}" for field in SCHEMA) + ", without nulls",
            fix="build it with ScoreTable.from_matrix",
        )
    for name in ("score", "stderr"):
        good = pc.is_finite(table[name])
        if name == "stderr":
            good = pc.and_(good, pc.greater_equal(table[name], 0.0))
        bad = table.filter(pc.invert(good))
        if bad.num_rows:
            row = bad.slice(0, 1).to_pylist()[0]
            raise NumericsError(
                f"the {name} of query {row['query']!r} and group {row['group']!r} is not usable",
                found=f"{row[name]}, and {bad.num_rows - 1} more like it",
                expected="finite numbers" if name == "score" else "finite numbers, at least 0",
                fix="look for NaN in the models' weights or in the query",
            )
    counts = table.group_by(_KEY).aggregate([([], "count_all")])
    repeated = counts.filter(pc.greater(counts["count_all"], 1))
    if repeated.num_rows:
        row = repeated.slice(0, 1).to_pylist()[0]
        raise ConfigError(
            f"the score of query {row['query']!r} and group {row['group']!r} is there several times",
            found=f"{row['count_all']} rows with method {row['method']}, weighting {row['weighting']}, "
            f"seed {row['seed']}",
            expected="one row",
            fix="join each table once",
        )


def distinct(table: pa.Table, column: str) -> tuple[Any, ...]:
    """Distinct values of a column, in the order of their first row."""
    return tuple(pc.unique(table[column]).to_pylist())


def rows_of(
    scores: Tensor,
    stderr: Tensor,
    query_ids: Sequence[str],
    groups: Sequence[str],
    n_draws: int | Tensor,
    *,
    method: str,
    weighting: str,
    seed: int,
) -> pa.Table:
    """One row per entry of a matrix.

    Args:
        scores: ``[queries, groups]``.
        stderr: ``[queries, groups]``.
        query_ids: Unique names of the rows of the matrix.
        groups: Unique names of its columns.
        n_draws: Noise draws per query, or ``[queries, groups]`` of them.
        method: Of all rows.
        weighting: Of all rows.
        seed: Of all rows.

    Raises:
        ConfigError: Shapes and names do not fit.
    """
    shape = (len(query_ids), len(groups))
    for name, matrix in (("scores", scores), ("stderr", stderr)):
        if matrix.shape != shape:
            raise ConfigError(
                f"the shape of {name} does not fit the names of queries and groups",
                found=tuple(matrix.shape),
                expected=f"{shape}: queries, groups",
                fix="give one row per query id and one column per group",
            )
    refuse_repeats("query", query_ids)
    refuse_repeats("group", groups)
    size = shape[0] * shape[1]
    size = shape[0] * shape[1]
    columns = {
        "query": np.repeat(np.asarray(query_ids, object), shape[1]),
        "group": np.tile(np.asarray(groups, object), shape[0]),
        "score": scores.detach().double().cpu().flatten().numpy(),
        "stderr": stderr.detach().double().cpu().flatten().numpy(),
        "n_draws": torch.as_tensor(n_draws).expand(shape).flatten().numpy(),
        "method": np.full(size, method, object),
        "weighting": np.full(size, weighting, object),
        "seed": np.full(size, seed),
    }
    return pa.table(columns, schema=SCHEMA)


def pivot(table: pa.Table, column: str) -> Tensor:
    """A column as ``[queries, groups]`` float64, in the order of the first row of each.

    Raises:
        ConfigError: Several methods, weightings or seeds are present, or rows are missing.
    """
    for name in ("method", "weighting", "seed"):
        choices = distinct(table, name)
        if len(choices) != 1:
            raise ConfigError(
                f"a matrix needs a score table with one {name}",
                found=", ".join(map(str, choices)) or "no rows",
                expected=f"one {name}",
                fix=f"choose with select({name}=...)",
            )
    queries, groups = distinct(table, "query"), distinct(table, "group")
    rows = pc.index_in(table["query"], pa.array(queries)).to_numpy()
    columns = pc.index_in(table["group"], pa.array(groups)).to_numpy()
    present = np.zeros((len(queries), len(groups)), bool)
    present[rows, columns] = True
    if not present.all():
        query, group = np.argwhere(~present)[0]
        raise ConfigError(
            f"the score of query {queries[query]!r} and group {groups[group]!r} is missing",
            found=f"{table.num_rows} rows for {len(queries)} queries and {len(groups)} groups",
            expected=f"{present.size} rows",
            fix="score all queries under all groups with guda attribute",
        )
    matrix = np.empty(present.shape)
    matrix[rows, columns] = table[column].to_numpy()
    return torch.from_numpy(matrix)
