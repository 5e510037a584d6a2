"""What a ``GroupDataModule`` knows of its samples before it reads their pixels."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from guda_lightning.data.group_names import quoted
from guda_lightning.data.grouping import Grouping, Indices
from guda_lightning.data.sources.source import ImageTable
from guda_lightning.errors import DataError
from guda_lightning.notes import tell_once


@dataclass(frozen=True)
class Listed:
    """The samples of a source and who belongs to which groups, shared by every view of it."""

    ids: tuple[str, ...]
    grouping: Grouping
    membership: Tensor
    table: ImageTable
    rows: Indices  # of the table, one a sample


def grouping_of(table: ImageTable, metadata: str | None) -> Grouping:
    """The groups that a metadata file assigns, or else one group per label.

    Args:
        table: The images.
        metadata: A ``.csv``, ``.tsv`` or ``.jsonl`` file, or None.

    Raises:
        DataError: There are neither labels nor metadata, or the file cannot be read.
        GroupError: The file puts no sample into a group.
    """
    if metadata is not None:
        return Grouping.from_metadata(metadata, table.ids)
    if table.labels is None:
        raise DataError(
            "the training data has no groups",
            found="images without labels",
            expected="labels, or a metadata file that assigns groups",
            fix="sort the images into one folder per group, name a label column, or set data.groups",
        )
    return Grouping.from_labels(table.labels, table.label_names)


def limited(grouping: Grouping, rows: Indices) -> Grouping:
    """The grouping over the samples that ``limit`` keeps; groups without one are told.

    Args:
        grouping: The groups of all samples.
        rows: Positions of those that are kept.

    Raises:
        DataError: No group has one.
    """
    kept = grouping.take(rows)
    lost = [name for name in grouping.names if grouping.size(name) and not kept.size(name)]
    if lost and not any(map(kept.size, kept.names)):
        raise DataError(
            "no group has a sample left",
            found=f"{len(lost)} groups without any of the {len(rows)} samples that data.limit keeps",
            expected="at least one group with a sample",
            fix="raise data.limit, or leave it out",
        )
    if lost:
        named = ", ".join(map(quoted, lost))
        tell_once(f"data: of the {len(rows)} samples that data.limit keeps, none is of the groups {named}")
    return kept


def other_size(found: tuple[int, int], expected: tuple[int, int], *, given: bool) -> DataError:
    """What to say where images have another size than the network takes.

    Args:
        found: Height and width of the images.
        expected: Those that the network says it takes.
        given: Whether ``image_size`` says the former.
    """
    (height, width), square = expected, expected[0] == expected[1]
    fix = f"set data.image_size to {height}" + (", or leave it out" if given else "")
    return DataError(
        "the training images have another size than the network takes",
        found=f"images of {found[1]} x {found[0]} pixels",
        expected=f"{width} x {height} pixels, the sample_size of the network",
        fix=f"{fix if square else 'bring images of that size'}; or build the network with sample_size="
        f"{found[0] if found[0] == found[1] else found}",
    )
