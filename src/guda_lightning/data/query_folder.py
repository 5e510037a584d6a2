"""Queries on disk: who they are, read at once, and their images, read when they are needed."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from guda_lightning.data.group_names import Names
from guda_lightning.data.image_files import image_suffixes, list_image_files
from guda_lightning.data.images import Channels, UnreadableImage, decoded, read_image, to_unit, unreadable
from guda_lightning.data.queries import refuse_shadowed, refuse_unfit_id
from guda_lightning.data.rows import read_rows
from guda_lightning.errors import DataError, GudaError, QueryError, StoreError
from guda_lightning.storage.files import read_json
from guda_lightning.storage.paths import refuse_missing_queries, user_path
from guda_lightning.storage.sealed import remake
from guda_lightning.storage.seals import SEALS, refuse_damaged_folder
from guda_lightning.storage.weights_record import RECORD
from guda_lightning.types import Queries

_EXAMPLE = '{"file_name": "1.png", "label": 3}'
_LARGEST = 2**63 - 1  # what a tensor of labels holds


class QueryFolder:
    """One image, or a folder of images with the folders inside it; docs/data.md says which are images.

    An id is the path inside the folder without the suffix of an image. A ``metadata.jsonl`` in the folder,
    with ``file_name`` and perhaps a whole-number ``label`` or a text ``prompt`` (or ``text``) on each line,
    gives the order, the class labels and the prompts; without it, queries are sorted by path and have
    neither.

    Args:
        path: The file or folder; ``~`` and environment variables are written out.
        image_shape: Channels, height and width that the model takes; None, where that is not known yet, lists
            the queries, and ``of_shape`` says it before they are read.
        resize: Whether to make other images fit: cropped around the centre, resized (Lanczos), coloured ones
            turned to gray for a gray model. Gray images always fit a colour model.

    Attributes:
        ids: One unique name per query.
        labels: Their class labels, or None.
        prompts: Their prompts, or None.

    Raises:
        QueryError: No images, files that are none, two of one id, or unfit metadata.
        StoreError: A stage wrote the folder, and something in it is damaged.
    """

    def __init__(
        self, path: str | Path, image_shape: tuple[int, int, int] | None = None, *, resize: bool = False
    ) -> None:
        path = user_path(path)
        _refuse_damaged(path)
        self._names, self.labels, self.prompts = _listing(path)
        self._folder = path if os.path.isdir(path) else path.parent
        self._shape, self._resize = image_shape, resize
        self.ids = tuple(_ids(self._names))
        refuse_shadowed(self.ids)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width that the model takes."""
        assert self._shape is not None, "of_shape comes before any reading"
        return self._shape

    def of_shape(self, image_shape: tuple[int, int, int]) -> QueryFolder:
        """The same queries for a model that takes images of a shape; they are not listed again."""
        fitted = copy.copy(self)
        fitted._shape = image_shape
        return fitted

    def load(self, rows: Iterable[int] | None = None) -> Queries:
        """Read the images of some queries, or of all.

        Raises:
            QueryError: Images are unreadable, or one is of another shape.
        """
        chosen = list(range(len(self)) if rows is None else rows)
        images = torch.empty(len(chosen), *self.image_shape)
        for position, row in enumerate(chosen):  # one by one: they may be all that fits into memory
            try:
                images[position] = to_unit(self._fitting(row))
            except UnreadableImage as error:
                raise self._unreadable(error) from error
        return Queries(
            tuple(self.ids[row] for row in chosen),
            images,
            None if self.labels is None else torch.tensor([self.labels[row] for row in chosen]),
            None if self.prompts is None else tuple(self.prompts[row] for row in chosen),
        )

    def _pixels(self, row: int) -> NDArray[np.uint8]:
        name, (size, depth) = self._names[row], self._wanted
        return decoded(name, lambda: read_image(self._folder / name), size, depth)

    @property
    def _wanted(self) -> tuple[tuple[int, int] | None, Channels | None]:
        """Width and height, and channels, that images are made to have; None: they stay as they are."""
        if not self._resize:
            return None, None
        channels, height, width = self.image_shape
        return (width, height), _depth(channels)

    def _fitting(self, row: int) -> Tensor:
        """``[channels, height, width]`` uint8."""
        name, fix = (
            f"the query {self._folder / self._names[row]}",
            "resize and convert it, or pass --resize true",
        )
        return fitting(self._pixels(row), self.image_shape, name, fix)

    def _unreadable(self, first: UnreadableImage) -> GudaError:
        """What is wrong with all queries that cannot be read, whichever were to be loaded."""
        one, several = f"the query {self._folder / first.name}", f"queries of {self._folder}"
        return unreadable(QueryError, first, self._pixels, range(len(self)), one, several)


def fitting(pixels: NDArray[np.uint8], image_shape: tuple[int, int, int], name: str, fix: str) -> Tensor:
    """Pixels as a model takes them, ``[channels, height, width]`` uint8; gray fits every colour model.

    Args:
        pixels: ``[channels, height, width]``.
        image_shape: Channels, height and width that the model takes.
        name: What to call the picture.
        fix: What to do where it does not fit.

    Raises:
        QueryError: They are of another shape.
    """
    if len(pixels) == 1 and pixels.shape[1:] == image_shape[1:]:
        pixels = np.repeat(pixels, image_shape[0], axis=0)
    if pixels.shape != image_shape:
        raise QueryError(
            f"{name} does not fit the model",
            found=_describe(pixels.shape),
            expected=_describe(image_shape),
            fix=fix,
        )
    return torch.tensor(pixels)


def load_queries(path: str | Path, image_shape: tuple[int, int, int], *, resize: bool = False) -> Queries:
    """Read all queries of a file or a folder; see ``QueryFolder``.

    Raises:
        QueryError: No images, a damaged one, one of another shape, two of one id, or unfit metadata.
    """
    return QueryFolder(path, image_shape, resize=resize).load()


def picture_shape(path: str | Path) -> tuple[int, int, int]:
    """Channels (1 or 3), height and width of the first query of a file or a folder.

    Raises:
        QueryError: No images, files that are none, or images that are unreadable.
    """
    folder = QueryFolder(path)
    try:
        channels, height, width = folder._pixels(0).shape
    except UnreadableImage as error:
        raise folder._unreadable(error) from error
    return channels, height, width


def _ids(names: Sequence[str]) -> Iterator[str]:
    """Names without their suffixes.

    Raises:
        QueryError: Two are the same, or one cannot be a file name when the query is stored.
    """
    first: dict[str, str] = {}
    suffixes = image_suffixes()
    for name in names:
        stem, suffix = os.path.splitext(name)
        query_id = stem if suffix.lower() in suffixes else name
        if first.setdefault(query_id, name) is not name:
            raise QueryError(
                f"two queries have the id '{query_id}'",
                found=f"the files '{first[query_id]}' and '{name}'",
                expected="names that differ without their suffixes",
                fix="rename or remove one of them",
            )
        refuse_unfit_id(query_id)
        yield query_id


def _refuse_damaged(path: Path) -> None:
    """Refuse pictures that a stage wrote and that have changed since; a user's own have no seal.

    Raises:
        StoreError: They have changed, or lost their seal.
    """
    folder = path.parent if path.is_file() else path
    if (folder / SEALS).is_file() or _drawn(folder):
        fix = (
            f"{remake(folder)}; or, where it was changed on purpose, remove {SEALS} and {RECORD} in it, "
            "and it is a folder of your own"
        )
        refuse_damaged_folder(folder, fix)


def _drawn(folder: Path) -> bool:
    """Whether there is the record of queries that a stage wrote."""
    try:
        return "query_hash" in read_json(folder / RECORD)
    except StoreError:  # none, or another file of that name
        return False


def _listing(path: Path) -> tuple[list[str], list[int] | None, tuple[str, ...] | None]:
    """File names inside the folder, their labels and their prompts if there are any."""
    if os.path.isfile(path):
        return [path.name], None, None
    refuse_missing_queries(path)
    metadata = path / "metadata.jsonl"
    files = list_image_files(path, QueryError, beside=[metadata, path / RECORD, path / SEALS])
    if not files.names:
        raise QueryError(
            f"the folder {path} has no images",
            found=files.ignored_text or "no file",
            expected="at least one image",
            fix="correct the path, or convert the images",
        )
    files.tell_ignored()
    names = list(files.names)
    return _metadata(metadata, names) if metadata.is_file() else (names, None, None)


def _metadata(path: Path, names: list[str]) -> tuple[list[str], list[int] | None, tuple[str, ...] | None]:
    def refuse(found: object, expected: str) -> QueryError:
        return QueryError(
            f"{path} does not fit its images",
            found=found,
            expected=expected,
            fix="correct or remove the file",
        )

    known, listed = Names(names), list[str]()
    labels: list[int] = []
    prompts: list[str] = []
    for number, row in _rows(path):
        name, label, prompt = row.get("file_name"), row.get("label"), row.get("prompt", row.get("text"))
        if not isinstance(name, str):
            columns = f"line {number}: the columns {', '.join(map(repr, row))}"
            raise refuse(columns, "a 'file_name' on every line")
        if label is not None:
            if isinstance(label, bool) or not isinstance(label, int) or abs(label) > _LARGEST:
                raise refuse(f"line {number}: label {label!r}", "the class index as a whole number")
            labels.append(label)
        if prompt is not None:
            if not isinstance(prompt, str):
                raise refuse(f"line {number}: prompt {prompt!r}", "the prompt as a text")
            prompts.append(prompt)
        place = PurePosixPath(name).as_posix()
        listed.append(known.find(place) or place)
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


def _rows(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    try:
        yield from read_rows(path, "metadata of queries", _EXAMPLE)
    except DataError as error:
        raise QueryError(error.problem, found=error.found, expected=error.expected, fix=error.fix) from error


def _depth(channels: int) -> Channels:
    return 1 if channels == 1 else 3


def _describe(shape: tuple[int, ...]) -> str:
    channels, height, width = shape
    return f"{width} x {height} pixels, {channels} channel{'s' if channels > 1 else ''}"
