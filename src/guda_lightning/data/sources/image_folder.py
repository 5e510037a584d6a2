"""Folders of images."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from guda_lightning.data.images import IMAGE_SUFFIXES
from guda_lightning.data.sources.columns import image_reader, load_dataset, undecoded
from guda_lightning.data.sources.source import ImageTable, Source
from guda_lightning.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image


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
        ids, read = list_images(self.path, layout="one subfolder of images per group")
        folders = [name.split("/")[0] if "/" in name else None for name in ids]
        labels = [folder for folder in folders if folder is not None]
        if labels and len(labels) < len(ids):
            raise DataError(
                f"some images of {Path(self.path)} are in no group's folder",
                found=f"{len(ids) - len(labels)} images beside {len(set(labels))} subfolders, such as "
                f"'{ids[folders.index(None)]}'",
                expected="every image in a subfolder, or none",
                fix="move them into a subfolder, which becomes their label",
            )
        return ImageTable(
            ids=ids,
            read=read,
            labels=tuple(labels) or None,
            label_names=tuple(sorted(set(labels))),
        )


def list_images(path: str, layout: str) -> tuple[tuple[str, ...], Callable[[int], Image]]:
    """List the images anywhere in a folder, sorted by path.

    Args:
        path: The folder.
        layout: What it should hold, for errors.

    Returns:
        The paths inside the folder, and a function that opens the picture at a position.

    Raises:
        DataError: There is no such folder, or it has no images.
    """
    root = Path(path)
    if not root.is_dir():
        raise DataError(
            f"the image folder {root} cannot be read",
            found="a file" if root.exists() else "nothing there",
            expected=f"a folder with {layout}",
            fix="correct the path",
        )
    if not any(file.suffix.lower() in IMAGE_SUFFIXES for file in root.rglob("*")):
        raise DataError(
            f"the image folder {root} has no images",
            found="no file that ends in " + ", ".join(sorted(IMAGE_SUFFIXES)),
            expected=layout,
            fix="correct the path, or convert the images",
        )
    # One pattern for everything: the library would read folders named 'train' or 'test' as splits.
    dataset = load_dataset(
        f"the image folder {root}",
        "imagefolder",
        data_files={"train": f"{glob.escape(str(root.resolve()))}/**"},
        split="train",
        drop_labels=True,
        drop_metadata=True,
    )
    column = undecoded(dataset, "image", str(root))
    paths = [os.path.relpath(value["path"], root.resolve()) for value in column["image"]]
    ids = [Path(path).as_posix() for path in paths]
    order = np.argsort(np.array(ids, dtype=np.str_))
    return tuple(ids[position] for position in order), image_reader(column, "image", order)
