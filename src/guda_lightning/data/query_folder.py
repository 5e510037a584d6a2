"""Queries on disk: who they are, read at once, and their images, read when they are needed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from guda_lightning.data.images import IMAGE_ERRORS, IMAGE_SUFFIXES, Channels, reason, to_bytes, to_unit
from guda_lightning.errors import QueryError
from guda_lightning.storage.paths import refuse_missing_queries
from guda_lightning.types import Queries


class QueryFolder:
    """One image, or a folder of images with the folders inside it.

    An id is the path inside the folder without its suffix. A ``metadata.jsonl`` in the folder, with
    ``file_name`` and perhaps a whole-number ``label`` or a text ``prompt`` on each line, gives the order, the
    class labels and the prompts; without it, queries are sorted by path and have neither.

    Args:
        path: The file or folder.
        image_shape: Channels, height and width that the model takes.
        resize: Whether to make other images fit: cropped around the centre, resized (Lanczos), coloured ones
            turned to gray for a gray model. Gray images always fit a colour model.

    Attributes:
        ids: One unique name per query.
        labels: Their class labels, or None.
        prompts: Their prompts, or None.

    Raises:
        QueryError: No images, two of one id, or unfit metadata.
    """

    def __init__(self, path: str | Path, image_shape: tuple[int, int, int], *, resize: bool = False) -> None:
        path = Path(path)
        self._names, self.labels, self.prompts = _listing(path)
        self._folder = path if path.is_dir() else path.parent
        self.image_shape, self._resize = image_shape, resize
        self.ids = tuple(_ids(self._names))

    def __len__(self) -> int:
        return len(self.ids)

    def load(self, rows: Iterable[int] | None = None) -> Queries:
        """Read the images of some queries, or of all.

        Raises:
            QueryError: An image is damaged, or of another shape.
        """
        chosen = list(range(len(self)) if rows is None else rows)
        images = torch.empty(len(chosen), *self.image_shape)
        for position, row in enumerate(chosen):  # one by one: they may be all that fits into memory
            images[position] = to_unit(
                _image(self._folder / self._names[row], self.image_shape, self._resize)
            )
        return Queries(
            tuple(self.ids[row] for row in chosen),
            images,
            None if self.labels is None else torch.tensor([self.labels[row] for row in chosen]),
            None if self.prompts is None else tuple(self.prompts[row] for row in chosen),
        )


def load_queries(path: str | Path, image_shape: tuple[int, int, int], *, resize: bool = False) -> Queries:
    """Read all queries of a file or a folder; see ``QueryFolder``.

    Raises:
        QueryError: No images, a damaged one, one of another shape, two of one id, or unfit metadata.
    """
    return QueryFolder(path, image_shape, resize=resize).load()


def _ids(names: Sequence[str]) -> Iterator[str]:
    """Names without their suffixes.

    Raises:
        QueryError: Two are the same.
    """
    first: dict[str, str] = {}
    for name in names:
        query_id = PurePosixPath(name).with_suffix("").as_posix()
        if first.setdefault(query_id, name) is not name:
            raise QueryError(
                f"two queries have the id '{query_id}'",
                found=f"the files '{first[query_id]}' and '{name}'",
                expected="names that differ without their suffixes",
                fix="rename or remove one of them",
            )
        yield query_id


def _listing(path: Path) -> tuple[list[str], list[int] | None, tuple[str, ...] | None]:
    """File names inside the folder, their labels and their prompts if there are any."""
    if path.is_file():
        return [path.name], None, None
    refuse_missing_queries(path)
    files = (file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())
    names = sorted(file.relative_to(path).as_posix() for file in files)
    if not names:
        raise QueryError(
            f"the folder {path} has no images",
            found="no file that ends in " + ", ".join(sorted(IMAGE_SUFFIXES)),
            expected="at least one image",
            fix="correct the path, or convert the images",
        )
    metadata = path / "metadata.jsonl"
    return _metadata(metadata, names) if metadata.is_file() else (names, None, None)


def _metadata(path: Path, names: list[str]) -> tuple[list[str], list[int] | None, tuple[str, ...] | None]:
    def refuse(found: object, expected: str) -> QueryError:
        return QueryError(
            f"{path} does not fit its images",
            found=found,
            expected=expected,
            fix="correct or remove the file",
        )

    listed: list[str] = []
    labels: list[int] = []
    prompts: list[str] = []
    for number, line in enumerate(_lines(path), start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise refuse(f"line {number}: {error}", "one JSON object per line") from error
        if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
            raise refuse(f"line {number}: {line[:80]}", "a JSON object with 'file_name' on every line")
        label = row.get("label")
        if label is not None:
            if isinstance(label, bool) or not isinstance(label, int):
                raise refuse(f"line {number}: label {label!r}", "the class index as a whole number")
            labels.append(label)
        prompt = row.get("prompt")
        if prompt is not None:
            if not isinstance(prompt, str):
                raise refuse(f"line {number}: prompt {prompt!r}", "the prompt as a text")
            prompts.append(prompt)
        listed.append(row["file_name"])
    if sorted(listed) != names:
        odd = sorted(set(listed) ^ set(names))
        raise refuse(
            f"{len(listed)} lines for {len(names)} images" + (f", unmatched: '{odd[0]}'" if odd else ""),
            "one line per image of the folder",
        )
    for name, given in (("label", labels), ("prompt", prompts)):
        if given and len(given) < len(listed):
            raise refuse(
                f"{len(given)} {name}s for {len(listed)} images", f"a {name} on every line, or on none"
            )
    return listed, labels or None, tuple(prompts) or None


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as file:
        yield from map(str.rstrip, file)


def _image(path: Path, image_shape: tuple[int, int, int], resize: bool) -> Tensor:
    """``[channels, height, width]`` uint8."""
    from PIL import Image

    channels, height, width = image_shape
    try:
        with Image.open(BytesIO(path.read_bytes())) as image:
            pixels = to_bytes(
                image, (width, height) if resize else None, _depth(channels) if resize else None
            )
    except IMAGE_ERRORS as error:
        raise QueryError(
            f"the query {path} cannot be read",
            found=reason(error),
            expected="a complete picture of 8 bits per channel",
            fix="repair, convert or remove it",
        ) from error
    if len(pixels) == 1 and pixels.shape[1:] == (height, width):
        pixels = np.repeat(pixels, channels, axis=0)
    if pixels.shape != image_shape:
        raise QueryError(
            f"the query {path} does not fit the model",
            found=_describe(pixels.shape),
            expected=_describe(image_shape),
            fix="resize and convert it, or pass --resize true",
        )
    return torch.tensor(pixels)


def _depth(channels: int) -> Channels:
    return 1 if channels == 1 else 3


def _describe(shape: tuple[int, ...]) -> str:
    channels, height, width = shape
    return f"{width} x {height} pixels, {channels} channel{'s' if channels > 1 else ''}"


def picture_shape(path: str | Path) -> tuple[int, int, int]:
    """Channels (1 or 3), height and width of the first query of a file or folder.

    Raises:
        QueryError: There are no images, or the first one is damaged.
    """
    from PIL import Image

    path = Path(path)
    first = (path if path.is_dir() else path.parent) / _listing(path)[0][0]
    try:
        with Image.open(first) as image:
            channels, height, width = to_bytes(image).shape
    except IMAGE_ERRORS as error:
        raise QueryError(
            f"the query {first} cannot be read",
            found=reason(error),
            expected="a complete picture of 8 bits per channel",
            fix="repair, convert or remove it",
        ) from error
    return channels, height, width
