"""What groups do to properties of whole sets of samples, in words and as a section of the page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from guda_lightning.errors import StoreError
from guda_lightning.functional.set_properties import mean_of_set
from guda_lightning.functional.student import t_quantile
from guda_lightning.report.section import Section
from guda_lightning.report.text import listed
from guda_lightning.scores import ScoreTable
from guda_lightning.scores.kinds import SetWorth
from guda_lightning.scores.summaries import with_error
from guda_lightning.storage.runs import RunFolder
from guda_lightning.storage.sealed import read_tensors

LEVEL = 0.95  # of the interval over images beyond which an effect is named
_NAMED = 6  # groups
_WORTH = {
    "leave_one_out": "the property of the full model − that without the group",
    "shapley": "Shapley value among the groups",
    "shapley_permutation": "Shapley value among the groups",
    "banzhaf": "Banzhaf value among the groups",
}

Measured = tuple[ScoreTable, Tensor]  # a table, and the property of every image, the full model's first


def read_property(path: Path) -> Measured:
    """Read what ``guda property`` wrote.

    Raises:
        StoreError: It is missing or damaged.
    """
    table, fix = ScoreTable.load(path), f"remove {path} and run guda property again"
    return table, read_tensors(path.with_suffix(".safetensors"), fix)["values"]


def property_section(run: RunFolder, table: ScoreTable) -> Section | None:
    """What ``guda property`` found about the full model of the page."""
    found = [
        read_property(path)
        for path in sorted(run.properties.glob("*.parquet"))
        if ScoreTable.load_record(path).full_hash == table.record.full_hash
    ]
    return section_of(found) if found else None


def section_of(found: Sequence[Measured]) -> Section:
    """The section of some tables."""
    return Section(
        name="properties",
        title="What each group does to a whole set of samples",
        lines=[line for one in found for line in property_lines(*one)],
        columns=("property", "group", "value", "effect", "±"),
        rows=[row for table, _ in found for row in _rows(table)],
    )


def property_lines(table: ScoreTable, values: Tensor) -> list[str]:
    """What was found about one property, one sentence a line."""
    details = _details(table)
    scores, errors = table.matrix()[0].tolist(), table.stderr_matrix()[0].tolist()
    pairs = sorted(zip(table.groups, scores, errors, strict=True), key=lambda one: -abs(one[1]))
    mean, error = mean_of_set(values[0])
    width = float(t_quantile(1 - LEVEL, torch.tensor([details.images - 1])))
    named = {
        verb: [
            f"{group} ({with_error(score, stderr)})"
            for group, score, stderr in pairs
            if sign * score > width * stderr
        ]
        for verb, sign in (("raised", 1), ("lowered", -1))
    }
    parts = [f"it is {verb} by {listed(names, _NAMED)}" for verb, names in named.items() if names]
    undecided = len(pairs) - sum(map(len, named.values()))
    parts += [f"of {undecided} of {len(pairs)} groups the {LEVEL:.0%} interval holds 0"] if undecided else []
    over = "images" if details.worth == "leave_one_out" else "images and the draw of coalitions"
    return [
        f"{details.property} of {details.images} samples of the full model: {with_error(mean, error)}; "
        f"{'; '.join(parts)}.",
        f"An effect is {_WORTH[details.worth]}, from the same noise; positive: the group raises it. "
        f"± is one standard error over {over}; what training anew would change is not in it. Intervals "
        f"(Student) are of single groups: of {len(pairs)} without any effect, {(1 - LEVEL) * len(pairs):.2g} "
        "would be named by chance.",
    ]


def _rows(table: ScoreTable) -> list[list[str]]:
    details = _details(table)
    scores, errors = table.matrix()[0].tolist(), table.stderr_matrix()[0].tolist()
    order = sorted(range(len(scores)), key=lambda column: -scores[column])
    return [
        [
            details.property,
            table.groups[column],
            details.worth.replace("_", " "),
            f"{scores[column]:+.3g}".replace("-", "−"),
            f"{errors[column]:.2g}",
        ]
        for column in order
    ]


def _details(table: ScoreTable) -> SetWorth:
    details = table.record.details
    if not isinstance(details, SetWorth):
        raise StoreError(
            "the scores are not about a property of a set of samples",
            found=f"scores of the kind {table.record.kind}",
            expected=f"scores of the kind {SetWorth.kind}",
            fix="give a table that guda property wrote",
        )
    return details
