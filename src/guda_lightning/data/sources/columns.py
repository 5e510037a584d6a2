"""Images, labels and texts in columns of a table that the library ``datasets`` opens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from guda_lightning.data.sources.cells import (
    place_inside,
    refuse_other_cells,
    refuse_other_features,
    refuse_repeated_names,
    texts_of_ids,
)
from guda_lightning.data.sources.source import ImageTable
from guda_lightning.errors import DataError, near
from guda_lightning.storage.files import read_regular

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from PIL.Image import Image


def load_dataset(origin: str, path: str, **options: Any) -> Dataset:
    """Open a table with the library ``datasets``.

    Args:
        origin: What it is, for errors.
        path: A builder of the library, a name on the hub or a local folder.
        **options: As ``datasets.load_dataset`` takes them.

    Raises:
        DataError: It is missing or broken.
    """
    import datasets

    try:
        dataset = datasets.load_dataset(path, **options)
    except _unreadable() as error:
        raise _cannot_be_read(origin, error) from error
    return dataset


def load_saved(origin: str, folder: str) -> Dataset | DatasetDict:
    """Open what the library ``datasets`` has saved.

    Args:
        origin: What it is, for errors.
        folder: Where it was saved.

    Raises:
        DataError: It is broken.
    """
    import datasets

    try:
        return datasets.load_from_disk(folder)
    except _unreadable() as error:
        raise _cannot_be_read(origin, error) from error


def _unreadable() -> tuple[type[Exception], ...]:
    import datasets

    # DatasetsError covers a missing dataset and a broken file, ValueError an unknown split or configuration
    # and Arrow's errors, RuntimeError a dataset that is a script, the others broken JSON of a saved one.
    return datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError, KeyError, TypeError


def _cannot_be_read(origin: str, error: Exception) -> DataError:
    return DataError(
        f"{origin} cannot be read",
        found=f"{type(error).__name__}: {error.__cause__ or error}",
        expected="images that the library 'datasets' can open",
        fix="correct the path, name, split or configuration",
    )


def read_column(dataset: Dataset, name: str, origin: str, without: str = "") -> Any:
    """The values of a column.

    Args:
        dataset: The table.
        name: The column.
        origin: What to call the table in errors.
        without: What to do where there is no such column, for the error.

    Raises:
        DataError: There is no such column.
    """
    if name not in dataset.column_names:
        meant = near(name, dataset.column_names)
        other = f"name another column, perhaps '{meant[0]}'" if meant else "check that this is the right file"
        raise DataError(
            f"{origin} has no column '{name}'",
            found=f"the columns {', '.join(map(repr, dataset.column_names))}",
            expected=f"a column '{name}'",
            fix=other + (f", or {without}" if without else ""),
        )
    return dataset[name]


def undecoded(dataset: Dataset, image_column: str, origin: str, folder: Path) -> Dataset:
    """Keep the image column alone, as ``{"bytes", "path"}``.

    Args:
        dataset: The table.
        image_column: The column.
        origin: What to call the table in errors.
        folder: Where the images are, if the column holds paths.

    Raises:
        DataError: There is no such column, or it holds something else.
    """
    import datasets
    import pyarrow

    read_column(dataset, image_column, origin)
    refuse_other_features(dataset, image_column, origin)
    kind = datasets.Image(decode=False)
    try:
        column = dataset.select_columns(image_column).cast_column(image_column, kind)
    except (pyarrow.ArrowException, TypeError, ValueError) as error:
        raise DataError(
            f"the column '{image_column}' of {origin} holds no images",
            found=dataset.features[image_column],
            expected="encoded images: bytes, paths, or both",
            fix="name the column with the images",
        ) from error
    refuse_other_cells(column, image_column, origin, folder)
    return column


def image_reader(
    dataset: Dataset, image_column: str, order: Sequence[int] | NDArray[np.int64], folder: Path
) -> Callable[[int], Image]:
    """A function that opens the picture at a position of ``order``, which holds rows of the column.

    Args:
        dataset: The table.
        image_column: Its column of pictures, undecoded.
        order: Rows.
        folder: Where relative paths in the column begin. A table may come from anybody: what is no file in
            there is not read, nor is anything fetched.
    """
    import datasets

    decoder = datasets.Image()

    def read(index: int) -> Image:
        value = dataset[int(order[index])][image_column]
        if value is None:
            raise ValueError("an empty cell")
        if value["bytes"] is None:
            value = {"bytes": read_regular(place_inside(folder, value["path"])), "path": None}
        image: Image = decoder.decode_example(value)
        return image

    return read


def read_labels(
    dataset: Dataset, column: str, origin: str, label_names: Sequence[str] | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the label name of each row, and all names in the order of the classes.

    Labels that are true or false are the classes 1 and 0, or without names ``True`` and ``False``.

    Raises:
        DataError: There is no such column, a row has neither a text nor the number of a class, or two classes
            have one name.
    """
    import datasets

    cells = read_column(dataset, column, origin, "set label_column to null where there are none")
    # Of a column of whole numbers that once had gaps, pandas makes 0.0, 1.0, ...
    values = [int(cell) if isinstance(cell, float) and cell.is_integer() else cell for cell in cells]
    feature = dataset.features[column]
    names = label_names or (feature.names if isinstance(feature, datasets.ClassLabel) else None)
    refuse_repeated_names(names or (), origin)
    for row, value in enumerate(values):
        if isinstance(value, str) and not label_names and value.strip():
            continue
        if not isinstance(value, int) or (names is not None and not 0 <= value < len(names)):
            raise DataError(
                f"row {row} of {origin} has no usable label",
                found=repr(value),
                expected="a text or a whole number"
                if names is None
                else f"a number from 0 to {len(names) - 1}",
                fix="put the groups of each id into a table, and name it as data.groups"
                if isinstance(value, list)
                else "correct the column, name another one, or train on a split that has labels",
            )
    if names is not None:
        return tuple(names[value] for value in values), tuple(names)
    ordered = sorted(set(values))  # numbers by value, texts by alphabet, False before True
    return tuple(map(str, values)), tuple(map(str, ordered))


def read_texts(dataset: Dataset, column: str, origin: str) -> tuple[str, ...]:
    """Return the text of each row.

    Raises:
        DataError: There is no such column, or a row has no text.
    """
    values = list(read_column(dataset, column, origin))
    for row, value in enumerate(values):
        if not isinstance(value, str) or not value.strip():
            raise DataError(
                f"row {row} of {origin} has no usable prompt",
                found=repr(value),
                expected="a text",
                fix="correct the column, or name another one",
            )
    return tuple(values)


def image_table(
    dataset: Dataset,
    origin: str,
    *,
    image_column: str,
    label_column: str | None,
    id_column: str | None,
    label_names: Sequence[str] | None,
    prompt_column: str | None,
    folder: Path,
) -> ImageTable:
    """The images of a table with their ids, labels and prompts, for a ``Source``.

    Args:
        dataset: The table.
        origin: What to call it in errors.
        image_column: Column with the images.
        label_column: Column with the labels; None: no labels.
        id_column: Column with the ids; None numbers the rows from 0.
        label_names: Names of whole-number labels; None: those of the table.
        prompt_column: Column with the prompts; None: no prompts.
        folder: Where the images are, if the column holds paths.
    """
    images = undecoded(dataset, image_column, origin, folder)
    rows = range(len(dataset))
    labels: tuple[str, ...] | None = None
    names: tuple[str, ...] = ()
    if label_column is not None:
        labels, names = read_labels(dataset, label_column, origin, label_names)
    return ImageTable(
        ids=tuple(map(str, rows))
        if id_column is None
        else texts_of_ids(read_column(dataset, id_column, origin), id_column, origin),
        read=image_reader(images, image_column, rows, folder),
        labels=labels,
        label_names=names,
        prompts=None if prompt_column is None else read_texts(dataset, prompt_column, origin),
    )
