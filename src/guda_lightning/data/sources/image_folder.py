"""Folders of images."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from guda_lightning.data.image_files import list_image_files
from guda_lightning.data.images import read_image
from guda_lightning.data.sources.source import ImageTable, Source
from guda_lightning.data.unchanged import refuse_changed
from guda_lightning.errors import DataError
from guda_lightning.storage.paths import user_path

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class ImageFolder(Source):
    """A folder with one subfolder of images per label, nested as deep as wanted; or images without labels.

    Ids are paths inside the folder, such as ``cats/001.png``. What Pillow opens is an image; docs/data.md
    says what becomes of other files.

    Args:
        path: The folder; ``~`` and environment variables are written out.
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


def list_images(
    path: str, layout: str, beside: Collection[Path] = ()
) -> tuple[tuple[str, ...], Callable[[int], Image]]:
    """List the images anywhere in a folder, sorted by path.

    Args:
        path: The folder.
        layout: What it should hold, for errors.
        beside: Files that are read as something else, wherever they lie.

    Returns:
        The paths inside the folder, and a function that opens the picture at a position.

    Raises:
        DataError: There is no such folder, it has no images, or one of its groups' folders is empty.
        StoreError: A stage wrote it, and it has changed since.
    """
    root = user_path(path)
    if not os.path.isdir(root):  # False also for a name that is too long
        raise DataError(
            f"the image folder {root} cannot be read",
            found="a file" if os.path.exists(root) else "nothing there",
            expected=f"a folder with {layout}",
            fix="correct the path",
        )
    refuse_changed(root)
    files = list_image_files(root, DataError, beside)
    if not files.names:
        raise DataError(
            f"the image folder {root} has no images",
            found=files.ignored_text or "no file",
            expected=layout,
            fix="correct the path, or convert the images",
        )
    if files.empty and any("/" in name for name in files.names):
        raise DataError(
            f"the image folder {root} has groups without any file",
            found=f"nothing in {', '.join(map(repr, files.empty))}",
            expected="images in every subfolder",
            fix="add what is missing, or remove the folder",
        )
    files.tell_ignored()
    return files.names, lambda position: read_image(root / files.names[position])
