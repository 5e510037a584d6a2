"""The images that were drawn for each group, as text, as a section of the page and of W&B."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from guda_lightning.data.images import decoded, read_image, to_unit
from guda_lightning.functional.leading import share_interval
from guda_lightning.report.section import Section
from guda_lightning.scores import ScoreTable
from guda_lightning.storage.runs import RunFolder
from guda_lightning.storage.sealed import folder_record, remake
from guda_lightning.storage.seals import refuse_damaged_folder

RECORD = "record.json"
_SHOWN = 8  # pictures of a group
_GROUPS = 24  # that have pictures
_COLUMNS = (
    *("group", "drawn by", "training images", "drawn", "kept"),
    *("lead with it", "of its training images", "nearest training image is of it"),
)


@dataclass(frozen=True, kw_only=True)
class BalancedGroup:
    """What was drawn for a group, and what it was attributed to.

    Attributes:
        name: The group.
        folder: Of its pictures, in ``images`` and ``left_out``.
        samples: Its training images.
        drawn: Images that were drawn.
        kept: Of these, those in the set.
        checked: The first of these, whose share is judged.
        leading: Of the checked ones, those that lead with the group.
        nearest: Of the checked ones, those whose most similar training image is of the group.
        training: Training images that were attributed beside them.
        training_leading: Of these, those that lead with the group: what the judge can tell at best.
    """

    name: str
    folder: str
    samples: int
    drawn: int
    kept: int
    checked: int
    leading: int
    nearest: int
    training: int
    training_leading: int

    @property
    def share(self) -> float:
        """Share of the checked images that lead with the group."""
        return self.leading / self.checked

    def to_json(self) -> dict[str, Any]:
        """The entries, by name."""
        return asdict(self)


def balance_section(run: RunFolder, table: ScoreTable) -> Section | None:
    """The set of a run folder; None where there is none, or of another full model or other groups."""
    of_table = (table.record.full_hash, table.record.grouping_hash)
    found = []
    for path in sorted(run.balanced.glob(f"[!.]*/{RECORD}")):  # a dot begins what an interruption left
        config = folder_record(path.parent)["config"]
        made = (config["full_hash"], config["grouping_hash"])
        if all(known in (None, one) for known, one in zip(of_table, made, strict=True)):
            found.append(path.parent)
    return section_of(found) if found else None


def section_of(sets: Sequence[Path]) -> Section:
    """What the records and the pictures of some sets say.

    Args:
        sets: Their folders, at least one.
    """
    lines, rows, pictures = list[str](), list[list[str]](), dict[str, torch.Tensor]()
    for folder in sets:
        refuse_damaged_folder(folder, remake(folder))
        record = folder_record(folder)
        groups, operator = read_groups(record), record["config"]["operator"]
        lines += balance_lines(groups, record)
        rows += [[*_row(group)[:1], operator, *_row(group)[1:]] for group in groups]
        pictures |= {f"{name}, {operator}": images for name, images in _pictures(folder, groups).items()}
    return Section(
        name="balance",
        title="A balanced set",
        lines=lines,
        columns=_COLUMNS,
        rows=rows,
        pictures=pictures,
    )


def read_groups(record: Mapping[str, Any]) -> list[BalancedGroup]:
    """The groups of a set's record."""
    return [BalancedGroup(**entries) for entries in record["groups"]]


def balance_lines(groups: Sequence[BalancedGroup], record: Mapping[str, Any]) -> list[str]:
    """What was found, one sentence or paragraph a line; the first one is the answer."""
    config, checked = record["config"], sum(group.checked for group in groups)
    worst = min(groups, key=lambda group: group.share)
    how = f"{record['judge']['method']}, weighting {record['judge']['weighting']}"
    training = sum(group.training for group in groups)
    least = math.ceil(record["least"] * config["num"] - 1e-9)  # .07 * 100 is 7.000000000000001
    lines = [
        f"Drawn by {config['operator']}, {len(groups)} groups x {config['num']} images: of the first "
        f"{checked} that were drawn, "
        f"{_share(sum(group.leading for group in groups), checked)} lead with the group that they were drawn "
        f"for; fewest with {worst.name}, {_share(worst.leading, worst.checked)}. Intervals are those of 95 % "
        f"over draws. {least} of {config['num']} must for each group; such a share is "
        f"{_share(least, config['num'])}.",
        f"Judged by {how}, by which "
        f"{_share(sum(group.training_leading for group in groups), training)} of {training} training images "
        "lead with their own group. The training image that is most similar, pixel by pixel, is of the group "
        f"for {_share(sum(group.nearest for group in groups), checked)} of what was drawn: a second opinion, "
        "by what has steered nothing.",
    ]
    left_out = sum(group.drawn - group.kept for group in groups)
    if left_out:
        others = sum(group.kept - group.leading for group in groups)
        lines.append(
            f"{left_out} images that lead with another group are left out; {others or 'no'} others stand in "
            "for them."
        )
    short = [f"{group.name} ({group.kept})" for group in groups if group.kept < config["num"]]
    if short:
        lines.append(
            f"Fewer than {config['num']} images are kept, as too few that were drawn lead with the group: "
            f"{', '.join(short)}."
        )
    return lines


def _row(group: BalancedGroup) -> list[str]:
    counts = (group.samples, group.drawn, group.kept)
    shares = (
        (group.leading, group.checked),
        (group.training_leading, group.training),
        (group.nearest, group.checked),
    )
    return [group.name, *map(str, counts), *(_share(*share) for share in shares)]


def _share(count: int, of: int) -> str:
    low, high = share_interval(count, of)
    return f"{count / of:.0%} [{low:.0%}, {high:.0%}]"


def _pictures(folder: Path, groups: Sequence[BalancedGroup]) -> dict[str, torch.Tensor]:
    found = {}
    for group in groups[:_GROUPS]:
        files = sorted((folder / "images" / group.folder).glob("*.png"))[:_SHOWN]
        if files:
            pixels = [torch.tensor(decoded(str(file), partial(read_image, file))) for file in files]
            found[group.name] = to_unit(torch.stack(pixels))
    return found
