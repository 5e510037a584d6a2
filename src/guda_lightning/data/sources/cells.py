"""What the cells of a column hold that should hold pictures, ids or labels."""

from __future__ import annotations

import base64
import math
import os
import re
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guda_lightning.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

_PICTURES = "encoded images: bytes, or a struct of bytes and path"
_PNG = "store one picture a row, as the bytes of a PNG file"
_LISTS = ("List", "LargeList", "Sequence", "Array2D", "Array3D", "Array4D", "Array5D")
_ADDRESS = re.compile(r"data:|.*://", re.DOTALL)
_FOLDER = "data.source.init_args.image_folder"
_FIRST = 10  # cells that are looked at
_PATH = 500  # characters of a path that are shown: its end is what tells two apart
_DECODE = (
    "decode it once with the library 'datasets': "
    "table.map(lambda row: {{{0!r}: base64.b64decode(row[{0!r}])}}).to_parquet(FILE)"
)


def refuse_other_features(dataset: Dataset, column: str, origin: str) -> None:
    """Refuse a column whose type says that it holds no pictures.

    Raises:
        DataError: It holds lists, structs of something else, or nothing.
    """
    feature = dataset.features[column]
    if isinstance(feature, dict) and not {"bytes", "path"} & feature.keys():
        raise _no_pictures(column, origin, "structs", f"the entries {', '.join(map(repr, feature))}", _PNG)
    if type(feature).__name__ in _LISTS:
        raise _no_pictures(column, origin, "lists", feature, _PNG)
    if getattr(feature, "dtype", None) == "null":
        raise _no_pictures(column, origin, "empty cells", "no value", "name the column with the images")


def refuse_other_cells(dataset: Dataset, column: str, origin: str, folder: Path) -> None:
    """Refuse a column of bytes and paths whose first cells all hold something else than pictures.

    Args:
        dataset: The table, with the column as ``{"bytes", "path"}``.
        column: Its name.
        origin: What to call the table in errors.
        folder: Where paths may lead.

    Raises:
        DataError: They hold base64, or the places of pictures that are not there.
    """
    cells = [cell for cell in dataset[:_FIRST][column] if cell is not None]
    found = [_instead_of_picture(cell, column, folder) for cell in cells]
    if found and None not in found and found[0] is not None:
        raise _no_pictures(column, origin, *found[0])


def place_inside(folder: Path, path: str | None) -> Path:
    """The file that a path in a cell leads to, links followed.

    Args:
        folder: Where relative paths begin, and where the file must be.
        path: The cell.

    Raises:
        ValueError: It is an address, or leads out of the folder.
    """
    if not path:
        raise ValueError("an empty cell")
    if _ADDRESS.match(path):
        raise ValueError(f"the address {_start(path)}: nothing is fetched")
    place = Path(os.path.realpath(folder / path))
    if not place.is_relative_to(os.path.realpath(folder)):
        raise ValueError(f"the path {_start(path, _PATH)} leads out of {folder}")
    return place


def _instead_of_picture(cell: Mapping[str, Any], column: str, folder: Path) -> tuple[str, str, str] | None:
    """What a cell holds, its begin, and how to mend it; None: a picture, or who knows."""
    content, path = cell["bytes"], cell["path"]
    if content is not None:
        known = _is_picture(content) or not _is_base64(content)
        return None if known else ("base64", _start(content), _DECODE.format(column))
    if not path:
        return None
    if _is_base64(path.encode("utf-8", "replace")):
        return "base64", _start(path), _DECODE.format(column)
    if _ADDRESS.match(path):
        fix = "download them into a folder, and use ImageFolder with a table of groups"
        return "addresses", _start(path), fix
    try:
        is_file = place_inside(folder, path).is_file()
    except ValueError:  # elsewhere, or no path
        is_file = False
    fix = f"set {_FOLDER} to the folder where these paths begin, or use ImageFolder with a table of groups"
    return None if is_file else ("paths that lead to no file", f"{_start(path, _PATH)} in {folder}", fix)


def texts_of_ids(values: Sequence[object], column: str, origin: str) -> tuple[str, ...]:
    """The ids of a column as texts.

    Raises:
        DataError: A cell is empty, or holds neither a text nor a number.
    """
    for row, value in enumerate(values):
        number = isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
        if not number and not (isinstance(value, str) and value.strip()):
            raise DataError(
                f"row {row} of {origin} has no usable id",
                found=f"{value!r} in the column '{column}'",
                expected="a text or a number",
                fix="fill in the column, name another one, or leave out id_column, which numbers the rows",
            )
    return tuple(map(str, values))


def refuse_repeated_names(names: Sequence[str], origin: str) -> None:
    """Refuse names of classes of which two are the same.

    Raises:
        DataError: Two are.
    """
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise DataError(
            f"two classes of {origin} have the name '{repeated[0]}'",
            found=f"{', '.join(map(repr, names))[:200]}",
            expected="one name for each class",
            fix="correct label_names",
        )


def _no_pictures(column: str, origin: str, what: str, found: object, fix: str) -> DataError:
    return DataError(
        f"the column '{column}' of {origin} holds {what} instead of pictures",
        found=found,
        expected=_PICTURES,
        fix=fix,
    )


def _is_base64(content: bytes) -> bool:
    try:
        return _is_picture(base64.b64decode(content, validate=True))
    except ValueError:
        return False


def _is_picture(content: bytes) -> bool:
    """Whether Pillow knows the format."""
    from PIL import Image

    try:
        Image.open(BytesIO(content)).close()
    except Exception:  # what Pillow raises depends on the format; only the answer counts
        return False
    return True


def _start(value: str | bytes, width: int = 60) -> str:
    return repr(value[:width]) + ("..." if len(value) > width else "")
