"""A set of images drawn for groups, on disk: the images that lead with their group, and a manifest of all."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from guda_lightning.data.group_metadata import group_lines
from guda_lightning.data.grouping import Grouping
from guda_lightning.errors import GroupError
from guda_lightning.report.balance_section import RECORD, BalancedGroup
from guda_lightning.storage.files import unique_slug
from guda_lightning.storage.seals import sealed_folder, sealed_json

IMAGES, LEFT_OUT = "images", "left_out"
_NAMED = 5  # groups of an error


def summary(
    grouping: Grouping, group: str, rows: pd.DataFrame, training: pd.DataFrame, num: int
) -> BalancedGroup:
    """Count what was drawn for a group.

    Args:
        grouping: All groups.
        group: The group.
        rows: What was drawn, in order, as ``Balancing.fill`` tells.
        training: Likewise, training images of the group.
        num: Images that were wanted: the first so many are those that are judged.
    """
    first = rows[:num]
    return BalancedGroup(
        name=group,
        folder=unique_slug(group),
        samples=grouping.size(group),
        drawn=len(rows),
        kept=int((rows["margin"] > 0).sum()),
        checked=len(first),
        leading=int((first["margin"] > 0).sum()),
        nearest=int((first["nearest"] == group).sum()),
        training=len(training),
        training_leading=int((training["margin"] > 0).sum()),
    )


def refuse_unlike(groups: Sequence[BalancedGroup], least: float, place: Path) -> None:
    """Refuse a set whose images are attributed to other groups than they were drawn for.

    Args:
        groups: What was drawn.
        least: Share of the first images that must lead with their group.
        place: Where all that was drawn is.

    Raises:
        GroupError: For some group they are too few.
    """
    few = [group for group in groups if group.share < least]
    if not few:
        return
    named = "; ".join(
        f"{group.name}: {group.leading} of {group.checked}, and of its training images "
        f"{group.training_leading} of {group.training}"
        for group in few[:_NAMED]
    )
    more = f"; and {len(few) - _NAMED} more groups" if len(few) > _NAMED else ""
    raise GroupError(
        f"too few of the images that were drawn for {len(few)} of {len(groups)} groups lead with them",
        found=named + more,
        expected=f"at least {least:.0%} of each",
        fix="train the full model, or what steers it, for longer; or leave these groups out with --groups, "
        f"or pass a lower --least: what was drawn stays in {place}",
    )


def write_set(
    folder: Path,
    rows: Mapping[str, pd.DataFrame],
    groups: Sequence[BalancedGroup],
    record: Mapping[str, Any],
) -> None:
    """Write a set, all or nothing: images, those left out, manifest, groups of the images, and record.

    Args:
        folder: Where to.
        rows: What was drawn for each group, as ``Balancing.fill`` tells.
        groups: Counts of it.
        record: What it was made from.
    """
    with sealed_folder(folder) as temporary:
        tables = [_copied(temporary, group, rows[group.name]) for group in groups]
        manifest = pd.concat(tables, ignore_index=True)
        manifest.to_csv(temporary / "manifest.csv", index=False, lineterminator="\n")
        of_images = manifest[manifest["kept"]]
        ids = [file.removeprefix(f"{IMAGES}/") for file in of_images["file"]]
        lines = group_lines(ids, [[group] for group in of_images["group"]])
        (temporary / "groups.jsonl").write_text(lines, "utf-8")
        complete = {**record, "groups": [group.to_json() for group in groups], "complete": True}
        (temporary / RECORD).write_bytes(sealed_json(complete))


def _copied(folder: Path, group: BalancedGroup, rows: pd.DataFrame) -> pd.DataFrame:
    """Copy the pictures of a group; returns its part of the manifest."""
    files = []
    for source, margin in zip(rows["file"], rows["margin"], strict=True):
        file = Path(IMAGES if margin > 0 else LEFT_OUT, group.folder, Path(source).name)
        (folder / file.parent).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / file)
        files.append(file.as_posix())
    return pd.DataFrame(
        {
            "file": files,
            "group": group.name,
            "kept": rows["margin"] > 0,
            "leads_with": rows["leads_with"],
            "nearest": rows["nearest"],
            "score": rows["score"],
            "stderr": rows["stderr"],
            "margin": rows["margin"],
            "index": range(len(rows)),
        }
    )
