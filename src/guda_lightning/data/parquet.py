"""Training images in tables: Parquet files and datasets of the Hugging Face hub."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from guda_lightning.data.columns import (
    image_reader,
    load_dataset,
    read_column,
    read_labels,
    read_texts,
    undecoded,
)
from guda_lightning.data.table import ImageTable, Source
from guda_lightning.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Parquet(Source):
    """Images as bytes in Parquet files, such as the public CIFAR-10.

    Args:
        path: A file, a folder of ``.parquet`` files, or a pattern such as ``data/train-*.parquet``.
        image_column: Column with the encoded images.
        label_column: Column with the labels: texts, whole numbers or named classes. None: no labels.
        id_column: Column with a unique id per row; None numbers the rows from 0.
        label_names: Names of the labels 0, 1, ...; None: those in the file, else the numbers.
        prompt_column: Column with the text of each image. None: no prompts.
    """

    path: str
    image_column: str = "img"
    label_column: str | None = "label"
    id_column: str | None = None
    label_names: list[str] | None = None
    prompt_column: str | None = None

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
        dataset = load_dataset(f"the Parquet data {path}", "parquet", data_files=names, split="train")
        return _table(
            dataset,
            str(path),
            image_column=self.image_column,
            label_column=self.label_column,
            id_column=self.id_column,
            label_names=self.label_names,
            prompt_column=self.prompt_column,
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
        prompt_column: Column with the text of each image. None: no prompts.
    """

    name: str
    split: str = "train"
    image_column: str = "image"
    label_column: str | None = "label"
    id_column: str | None = None
    config: str | None = None
    prompt_column: str | None = None

    def load(self) -> ImageTable:
        """List the rows of the split in their order; a hub dataset is downloaded first."""
        origin = f"the dataset {self.name}"
        if any(Path(self.name, marker).is_file() for marker in ("state.json", "dataset_dict.json")):
            dataset = _saved_dataset(origin, self.name, self.split)
        else:
            dataset = load_dataset(origin, self.name, name=self.config, split=self.split)
        return _table(
            dataset,
            self.name,
            image_column=self.image_column,
            label_column=self.label_column,
            id_column=self.id_column,
            label_names=None,
            prompt_column=self.prompt_column,
        )


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
    *,
    image_column: str,
    label_column: str | None,
    id_column: str | None,
    label_names: Sequence[str] | None,
    prompt_column: str | None,
) -> ImageTable:
    images = undecoded(dataset, image_column, origin)
    rows = range(len(dataset))
    labels: tuple[str, ...] | None = None
    names: tuple[str, ...] = ()
    if label_column is not None:
        labels, names = read_labels(dataset, label_column, origin, label_names)
    return ImageTable(
        ids=tuple(map(str, rows if id_column is None else read_column(dataset, id_column, origin))),
        read=image_reader(images, image_column, rows),
        labels=labels,
        label_names=names,
        prompts=None if prompt_column is None else read_texts(dataset, prompt_column, origin),
    )
