"""How far a picture moves without a group, as a section of the page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from guda_lightning.functional.distances import counterfactual_radius
from guda_lightning.report.distances import PIXELS, Distances
from guda_lightning.report.section import Section
from guda_lightning.report.text import cut
from guda_lightning.report.without_section import drawn_beside, shown_operator
from guda_lightning.scores import ScoreTable
from guda_lightning.storage.runs import RunFolder

_MOST = 20  # groups that are shown, those that move most pictures first


def radius_section(run: RunFolder, table: ScoreTable) -> Section | None:
    """What was measured of the operator whose pictures the page shows."""
    found = drawn_beside(run, table.record.full_hash, (1, 1, 1))
    if not found:
        return None
    return radius_of(run, shown_operator(found, table), found, table.record.grouping_hash)


def radius_of(
    run: RunFolder,
    operator: str,
    found: Mapping[Path, Mapping[str, Any]],
    grouping_hash: str | None,
) -> Section | None:
    """What was measured of an operator and the groups of a grouping, if anything was; None: of any."""
    distances = Distances.load(run, operator, found, grouping_hash)
    if distances is None:
        return None
    queries, groups, _ = distances.matrix()
    lines = [_line(distances, column) for column in distances.columns]
    lines[1:1] = [
        f"{operator}: {len(groups)} groups, {len(queries)} queries, each drawn from the same noise with and "
        "without the group. Distances are root mean square differences of the values of two pictures, in "
        "[−1, 1]; of a feature, of its values. Pictures are read from 8 bit files: below 0.004 is rounding.",
        "The radius is the largest distance over the groups. It has no placebo: how far a picture moves "
        "without as many random images, or between two seeds of the counterfactual, is not in it, and the "
        "largest of more groups is larger. guda placebo tests the scores.",
    ]
    if distances.left_out:
        shown = ", ".join(cut(name, 30) for name in distances.left_out[:_MOST])
        lines.append(
            f"Not among these, as groups together, of other groupings or other seeds of counterfactuals: "
            f"{shown}{', ...' if len(distances.left_out) > _MOST else ''}."
        )
    return Section(
        name="radius",
        title="How far does a picture move without a group?",
        lines=lines,
        columns=_titles(distances),
        rows=_rows(distances),
    )


def _line(distances: Distances, column: str) -> str:
    queries, groups, matrix = distances.matrix(column)
    radii, movers = counterfactual_radius(matrix)
    far = int(radii.argmax())
    counts = torch.bincount(movers, minlength=len(groups))
    top = int(counts.argmax())
    what = "" if column == PIXELS else f"In the feature {column}: "
    return (
        f"{what}{'the' if what else 'The'} radius of the median query is {_number(radii.median())}; "
        f"{cut(queries[far], 30)} moves most, {_number(radii[far])} "
        f"without {cut(groups[int(movers[far])], 30)}. "
        f"{cut(groups[top], 30)} moves most of the pictures furthest, {int(counts[top])} of {len(queries)}. "
        f"Two different queries lie {_number(distances.record['apart'][column])} apart on average."
    )


def _titles(distances: Distances) -> list[str]:
    titles = ["without", "moves furthest"]
    for column in distances.columns:
        titles += [f"{column}, median", f"{column}, largest"]
    return titles


def _rows(distances: Distances) -> list[list[str]]:
    queries, groups, pixels = distances.matrix()
    _, movers = counterfactual_radius(pixels)
    counts = torch.bincount(movers, minlength=len(groups)).tolist()
    medians = pixels.median(dim=0).values.tolist()
    order = sorted(range(len(groups)), key=lambda group: (-counts[group], -medians[group]))
    matrices = [distances.matrix(column)[2] for column in distances.columns]
    return [
        [
            cut(groups[group], 40),
            f"{counts[group]} of {len(queries)}",
            *(_number(part) for of in matrices for part in (of[:, group].median(), of[:, group].max())),
        ]
        for group in order[:_MOST]
    ]


def _number(value: Any) -> str:
    return f"{float(value):.3g}"
