"""Where training images come from: each source is one class, named in YAML by ``class_path``."""

from __future__ import annotations

import difflib
import glob
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from guda_lightning.data.images import IMAGE_ERRORS, IMAGE_SUFFIXES, Channels, reason, to_bytes
from guda_lightning.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    from datasets import Dataset
    from PIL.Image import Image


@dataclass(frozen=True)
class ImageTable:
    """Training images, decoded when asked for.

    Attributes:
        ids: One stable, unique name per sample.
        read: Opens the picture at a position of ``ids``.
        labels: One label name per sample, or None without labels.
        label_names: All label names in the order of the class indices, also those without samples.

    Raises:
        DataError: No samples, repeated ids, or labels that do not fit.
    """

    ids: tuple[str, ...]
    read: Callable[[int], Image]
    labels: tuple[str, ...] | None = None
    label_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.ids:
            raise DataError(
                "the source has no samples",
                found="0 images",
                expected="at least 1",
                fix="check its path or split",
            )
        if len(set(self.ids)) < len(self.ids):
            repeated = next(name for name, count in Counter(self.ids).items() if count > 1)
            raise DataError(
                f"two samples have the id '{repeated}'",
                found=f"{len(set(self.ids))} different ids for {len(self.ids)} samples",
                expected="one id per sample",
                fix="name a column with unique ids, or none to number the rows",
            )
        if self.labels is not None and (
            len(self.labels) != len(self.ids) or not set(self.labels) <= set(self.label_names)
        ):
            raise DataError(
                "the labels do not fit the samples",
                found=f"{len(self.labels)} labels, without a name: "
                f"{sorted(set(self.labels) - set(self.label_names))[:3]}",
                expected=f"{len(self.ids)} labels out of {len(self.label_names)} names",
                fix="give every sample a label and every label a name",
            )

    def pixels(
        self,
        indices: Sequence[int] | NDArray[np.int64] | None = None,
        *,
        image_size: int | None = None,
        channels: Channels | None = None,
    ) -> Tensor:
        """Decode images into memory.

        Args:
            indices: Positions of the samples; default all.
            image_size: Side in pixels; other images are cropped to a centred square and resized (Lanczos).
            channels: 1 for gray, 3 for RGB; default gray when every image is, else RGB.

        Returns:
            ``[samples, channels, height, width]`` uint8.

        Raises:
            DataError: An image is damaged, or sizes differ and no size was asked for.
        """
        from tqdm import tqdm

        size = None if image_size is None else (image_size, image_size)
        order = range(len(self.ids)) if indices is None else [int(index) for index in indices]
        arrays: list[NDArray[np.uint8]] = []
        # Shown only in a terminal and only when it takes a while.
        for index in tqdm(order, desc="reading images", unit="image", disable=None, delay=2):
            try:
                array = to_bytes(self.read(index), size, channels)
            except IMAGE_ERRORS as error:
                raise DataError(
                    f"the image '{self.ids[index]}' cannot be read",
                    found=reason(error),
                    expected="a complete picture of 8 bits per channel",
                    fix="repair, convert or remove it",
                ) from error
            if arrays and array.shape[1:] != arrays[0].shape[1:]:
                raise DataError(
                    "the images differ in size",
                    found=f"'{self.ids[order[0]]}' is {_size(arrays[0])}, "
                    f"'{self.ids[index]}' is {_size(array)}",
                    expected="one width and height",
                    fix="set data.image_size, which crops to a square and resizes",
                )
            arrays.append(array)
        depth = max(len(array) for array in arrays)
        pixels = torch.empty((len(arrays), depth, *arrays[0].shape[1:]), dtype=torch.uint8)
        for row, array in zip(pixels.numpy(), arrays, strict=True):
            row[:] = array  # a gray image among coloured ones is repeated over the channels
        return pixels


class Source(ABC):
    """Anything that yields training images with ids and, perhaps, labels."""

    @abstractmethod
    def load(self) -> ImageTable:
        """List the samples, without decoding their pixels.

        Raises:
            DataError: The data cannot be found or read.
        """


@dataclass(frozen=True)
class Digits(Source):
    """The 1797 handwritten digits that ship with scikit-learn: gray, 8 by 8 pixels, labels 0 to 9."""

    def load(self) -> ImageTable:
        """List the digits; ids are row numbers, the 17 levels spread over 0..255."""
        try:
            from sklearn.datasets import load_digits
        except ModuleNotFoundError as error:
            raise MissingExtraError("scikit-learn", "digits") from error
        from PIL import Image

        digits = load_digits()
        pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
        labels = tuple(str(label) for label in digits.target)
        return ImageTable(
            ids=tuple(map(str, range(len(pixels)))),
            read=lambda index: Image.fromarray(pixels[index]),
            labels=labels,
            label_names=tuple(map(str, range(10))),
        )


@dataclass(frozen=True)
class ImageFolder(Source):
    """A folder with one subfolder of images per label, nested as deep as wanted; or images without labels.

    Ids are paths inside the folder, such as ``cats/001.png``.

    Args:
        path: The folder.
    """

    path: str

    def load(self) -> ImageTable:
        """List the images, sorted by path; the first folder inside ``path`` is the label."""
        root = Path(self.path)
        if not root.is_dir():
            raise DataError(
                f"the image folder {root} cannot be read",
                found="a file" if root.exists() else "nothing there",
                expected="a folder with one subfolder of images per group",
                fix="correct the path",
            )
        if not any(file.suffix.lower() in IMAGE_SUFFIXES for file in root.rglob("*")):
            raise DataError(
                f"the image folder {root} has no images",
                found="no file that ends in " + ", ".join(sorted(IMAGE_SUFFIXES)),
                expected="one subfolder of images per group",
                fix="correct the path, or convert the images",
            )
        # One pattern for everything: the library would read folders named 'train' or 'test' as splits.
        dataset = _load_dataset(
            f"the image folder {root}",
            "imagefolder",
            data_files={"train": f"{glob.escape(str(root.resolve()))}/**"},
            split="train",
            drop_labels=True,
            drop_metadata=True,
        )
        column = _undecoded(dataset, "image", str(root))
        paths = [os.path.relpath(value["path"], root.resolve()) for value in column["image"]]
        ids = [Path(path).as_posix() for path in paths]
        order = np.argsort(np.array(ids, dtype=np.str_))
        ids = [ids[position] for position in order]
        folders = [name.split("/")[0] if "/" in name else None for name in ids]
        labels = [folder for folder in folders if folder is not None]
        if labels and len(labels) < len(ids):
            raise DataError(
                f"some images of {root} are in no group's folder",
                found=f"{len(ids) - len(labels)} images beside {len(set(labels))} subfolders, such as "
                f"'{ids[folders.index(None)]}'",
                expected="every image in a subfolder, or none",
                fix="move them into a subfolder, which becomes their label",
            )
        return ImageTable(
            ids=tuple(ids),
            read=_reader(column, "image", order),
            labels=tuple(labels) or None,
            label_names=tuple(sorted(set(labels))),
        )


@dataclass(frozen=True)
class Parquet(Source):
    """Images as bytes in Parquet files, such as the public CIFAR-10.

    Args:
        path: A file, a folder of ``.parquet`` files, or a pattern such as ``data/train-*.parquet``.
        image_column: Column with the encoded images.
        label_column: Column with the labels: texts, whole numbers or named classes. None: no labels.
        id_column: Column with a unique id per row; None numbers the rows from 0.
        label_names: Names of the labels 0, 1, ...; None: those in the file, else the numbers.
    """

    path: str
    image_column: str = "img"
    label_column: str | None = "label"
    id_column: str | None = None
    label_names: list[str] | None = None

    def load(self) -> ImageTable:
        """List the rows in the order of the files' names."""
        path = Path(self.path)
        if path.is_dir():
            files = sorted(path.glob("*.parquet"))
        elif path.is_file():
            files = [path]
        else:
            files = sorted(path.parent.glob(path.name))
        if not files:
            raise DataError(
                f"no Parquet file at {path}",
                found="a folder without .parquet files" if path.is_dir() else "nothing there",
                expected="a .parquet file, a folder of them, or a pattern that matches some",
                fix="correct the path",
            )
        names = [glob.escape(str(file)) for file in files]
        dataset = _load_dataset(f"the Parquet data {path}", "parquet", data_files=names, split="train")
        return _table(
            dataset, str(path), self.image_column, self.label_column, self.id_column, self.label_names
        )


@dataclass(frozen=True)
class HubDataset(Source):
    """A dataset of the Hugging Face hub, or one that ``datasets`` saved to a local folder.

    Args:
        name: Name on the hub, such as ``uoft-cs/cifar10``, or a local folder.
        split: Split to train on.
        image_column: Column with the images.
        label_column: Column with the labels: texts, whole numbers or named classes. None: no labels.
        id_column: Column with a unique id per row; None numbers the rows from 0.
        config: Name of the dataset's configuration where it has several.
    """

    name: str
    split: str = "train"
    image_column: str = "image"
    label_column: str | None = "label"
    id_column: str | None = None
    config: str | None = None

    def load(self) -> ImageTable:
        """List the rows of the split in their order; a hub dataset is downloaded first."""
        origin = f"the dataset {self.name}"
        if any(Path(self.name, marker).is_file() for marker in ("state.json", "dataset_dict.json")):
            dataset = _saved_dataset(origin, self.name, self.split)
        else:
            dataset = _load_dataset(origin, self.name, name=self.config, split=self.split)
        return _table(dataset, self.name, self.image_column, self.label_column, self.id_column, None)


def _load_dataset(origin: str, path: str, **options: Any) -> Dataset:
    import datasets

    try:
        dataset = datasets.load_dataset(path, **options)
    # DatasetsError covers a missing dataset and a broken file, ValueError an unknown split or configuration.
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        raise DataError(
            f"{origin} cannot be read",
            found=f"{type(error).__name__}: {error.__cause__ or error}",
            expected="images that the library 'datasets' can open",
            fix="correct the path, name, split or configuration",
        ) from error
    return dataset


def _saved_dataset(origin: str, folder: str, split: str) -> Dataset:
    import datasets

    saved = datasets.load_from_disk(folder)
    if isinstance(saved, datasets.Dataset):
        return saved  # one split, saved by itself
    if split not in saved:
        raise DataError(
            f"{origin} has no split '{split}'",
            found=f"the splits {', '.join(map(repr, saved))}",
            expected=f"a split '{split}'",
            fix="set data.source.split to one of them",
        )
    return saved[split]


def _table(
    dataset: Dataset,
    origin: str,
    image_column: str,
    label_column: str | None,
    id_column: str | None,
    label_names: Sequence[str] | None,
) -> ImageTable:
    columns = _undecoded(dataset, image_column, origin)
    ids = map(str, range(len(dataset)))
    if id_column is not None:
        ids = map(str, _column(dataset, id_column, origin))
    labels: tuple[str, ...] | None = None
    names: tuple[str, ...] = ()
    if label_column is not None:
        labels, names = _labels(dataset, label_column, origin, label_names)
    return ImageTable(tuple(ids), _reader(columns, image_column, range(len(dataset))), labels, names)


def _column(dataset: Dataset, name: str, origin: str) -> Any:
    if name not in dataset.column_names:
        near = difflib.get_close_matches(name, dataset.column_names, n=1, cutoff=0.0)
        raise DataError(
            f"{origin} has no column '{name}'",
            found=f"the columns {', '.join(map(repr, dataset.column_names))}",
            expected=f"a column '{name}'",
            fix=f"name another column, perhaps '{near[0]}'" if near else "check that this is the right file",
        )
    return dataset[name]


def _undecoded(dataset: Dataset, image_column: str, origin: str) -> Dataset:
    """Keep the image column alone, as ``{"bytes", "path"}``."""
    import datasets
    import pyarrow

    _column(dataset, image_column, origin)
    try:
        return dataset.select_columns(image_column).cast_column(image_column, datasets.Image(decode=False))
    except (pyarrow.ArrowException, TypeError, ValueError) as error:
        raise DataError(
            f"the column '{image_column}' of {origin} holds no images",
            found=dataset.features[image_column],
            expected="encoded images: bytes, paths, or both",
            fix="name the column with the images",
        ) from error


def _reader(
    dataset: Dataset, image_column: str, order: Sequence[int] | NDArray[np.int64]
) -> Callable[[int], Image]:
    import datasets

    decoder = datasets.Image()

    def read(index: int) -> Image:
        value = dataset[int(order[index])][image_column]
        if value is None:
            raise ValueError("an empty cell")
        if value["bytes"] is None and os.path.isfile(value["path"]):
            # Given the path, Pillow would leave a damaged file open.
            value = {"bytes": Path(value["path"]).read_bytes(), "path": value["path"]}
        image: Image = decoder.decode_example(value)
        return image

    return read


def _labels(
    dataset: Dataset, column: str, origin: str, label_names: Sequence[str] | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the label name of each row, and all names in the order of the classes."""
    import datasets

    values = list(_column(dataset, column, origin))
    feature = dataset.features[column]
    names = label_names or (feature.names if isinstance(feature, datasets.ClassLabel) else None)
    for row, value in enumerate(values):
        whole = isinstance(value, int) and not isinstance(value, bool)
        if isinstance(value, str) and not label_names:
            continue
        if not whole or (names is not None and not 0 <= value < len(names)):
            raise DataError(
                f"row {row} of {origin} has no usable label",
                found=repr(value),
                expected="a text or a whole number"
                if names is None
                else f"a number from 0 to {len(names) - 1}",
                fix="correct the column, name another one, or train on a split that has labels",
            )
    if names is not None:
        return tuple(names[value] for value in values), tuple(names)
    ordered = sorted(set(values))  # numbers by value, texts by alphabet
    return tuple(map(str, values)), tuple(map(str, ordered))


def _size(array: NDArray[np.uint8]) -> str:
    return f"{array.shape[2]} x {array.shape[1]} pixels"
