"""What is shown of a score table: one method under one weighting, over its seeds, in the unit it may have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from guda_lightning.errors import ConfigError
from guda_lightning.scores.units import Measured, Unit, unit_of

if TYPE_CHECKING:
    from guda_lightning.scores.table import ScoreTable

# What was measured of the size of scores, by method, weighting and seed.
Sizes = Mapping[tuple[str, str, int], Measured]


@dataclass(frozen=True, eq=False)
class View:
    """Scores of one method under one weighting, brought to their unit and averaged over seeds.

    Attributes:
        method: What made the scores.
        weighting: How timesteps were weighted.
        seeds: Seeds of the counterfactuals.
        queries: Names of the rows.
        groups: Names of the columns.
        unit: What the numbers are in.
        by_seed: ``[seeds, queries, groups]`` scores.
        noise: ``[seeds, queries, groups]``, their standard errors over noise draws.
    """

    method: str
    weighting: str
    seeds: tuple[int, ...]
    queries: tuple[str, ...]
    groups: tuple[str, ...]
    unit: Unit
    by_seed: Tensor
    noise: Tensor

    @property
    def scores(self) -> Tensor:
        """``[queries, groups]``, the mean over seeds."""
        return self.by_seed.mean(dim=0)

    @property
    def stderr(self) -> Tensor:
        """``[queries, groups]``, standard errors of the mean.

        Of several seeds, ``sqrt(s² / S + σ²)`` with s² the variance between the S seeds and σ² the mean
        squared standard error of one: seeds are scored on the same noise, so averaging them leaves its error.
        """
        noise = self.noise.square().mean(dim=0)
        return (noise + self.between(self.by_seed)).sqrt()

    def between(self, by_seed: Tensor) -> Tensor:
        """What training contributes to the squared standard error of means over seeds, ``[seeds, ...]``."""
        seeds = len(self.seeds)
        return by_seed.var(dim=0) / seeds if seeds > 1 else torch.zeros_like(by_seed[0])

    @property
    def title(self) -> str:
        """Method, weighting and seeds."""
        seeds = ", ".join(map(str, self.seeds))
        return f"{self.method}, weighting {self.weighting}, seed{'s' if len(self.seeds) > 1 else ''} {seeds}"

    def over(self, queries: Sequence[str], groups: Sequence[str]) -> View:
        """The view with its rows and columns in a given order.

        Raises:
            ConfigError: It is about other queries or groups.
        """
        if set(self.queries) != set(queries) or set(self.groups) != set(groups):
            raise ConfigError(
                "what is shown together must score the same queries under the same groups",
                found=f"{len(self.queries)} queries and {len(self.groups)} groups for {self.title}",
                expected=f"{len(queries)} queries and {len(groups)} groups",
                fix="score all of them with guda attribute, or show this part by itself",
            )
        row, column = _positions(self.queries), _positions(self.groups)
        rows, columns = [row[query] for query in queries], [column[group] for group in groups]
        return replace(
            self,
            queries=tuple(queries),
            groups=tuple(groups),
            by_seed=self.by_seed[:, rows][:, :, columns],
            noise=self.noise[:, rows][:, :, columns],
        )


def views(table: ScoreTable, sizes: Sizes | None = None) -> list[View]:
    """What a table holds, method by method and weighting by weighting, in the order of their first row.

    Args:
        table: The scores.
        sizes: What was measured of their size.

    Raises:
        ConfigError: The seeds of a method score other queries or groups.
    """
    keys = table.table.group_by(["method", "weighting"], use_threads=False).aggregate([]).to_pylist()
    return [_view(table.select(key["method"], key["weighting"]), sizes or {}) for key in keys]


def _view(table: ScoreTable, sizes: Sizes) -> View:
    (method,), (weighting,) = table.methods, table.weightings
    found = [sizes.get((method, weighting, seed)) for seed in table.seeds]
    lines = [one for one in found if one is not None]
    measured = Measured.over(lines) if len(lines) == len(found) else None
    unit = unit_of(table.record, method, weighting, len(table.groups), len(found), measured)
    calibrated = unit.sized and measured is not None and measured.right
    parts: list[View] = []
    for number, seed in enumerate(table.seeds):
        part = table.select(seed=seed)
        scores, stderr = part.matrix(), part.stderr_matrix()
        if calibrated:
            line = lines[number]
            scores, stderr = line.scale * scores + line.offset, abs(line.scale) * stderr
        scores, stderr = unit.of(scores, stderr)
        one = View(method, weighting, (seed,), part.queries, part.groups, unit, scores[None], stderr[None])
        parts.append(one.over(parts[0].queries, parts[0].groups) if parts else one)
    by_seed, noise = (torch.cat([getattr(one, name) for one in parts]) for name in ("by_seed", "noise"))
    return replace(parts[0], seeds=table.seeds, by_seed=by_seed, noise=noise)


def _positions(names: Sequence[str]) -> dict[str, int]:
    return {name: position for position, name in enumerate(names)}
