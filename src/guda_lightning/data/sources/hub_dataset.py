"""Datasets of the Hugging Face hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from guda_lightning.data.sources.columns import image_table, load_dataset, load_saved
from guda_lightning.data.sources.source import ImageTable, Source
from guda_lightning.errors import DataError
from guda_lightning.storage.paths import expanded, user_path

if TYPE_CHECKING:
    from datasets import Dataset


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
        image_folder: Folder of the images, where the image column holds their paths in it; what lies outside
            is not read. None: the local folder, or that where ``datasets`` keeps what it downloads.
    """

    name: str
    split: str = "train"
    image_column: str = "image"
    label_column: str | None = "label"
    id_column: str | None = None
    config: str | None = None
    prompt_column: str | None = None
    image_folder: str | None = None

    def load(self) -> ImageTable:
        """List the rows of the split in their order; a hub dataset is downloaded first."""
        name = expanded(self.name)
        origin = f"the dataset {name}"
        if any(Path(name, marker).is_file() for marker in ("state.json", "dataset_dict.json")):
            dataset = _saved_dataset(origin, name, self.split)
        else:
            dataset = load_dataset(origin, name, name=self.config, split=self.split)
            if dataset.builder_name == "imagefolder" and Path(name).is_dir():
                # It leaves out hidden names, links and all formats but one, and takes archives for groups.
                raise DataError(
                    f"{origin} is a folder of images",
                    found="images without a table",
                    expected="tables with a column of images, or what datasets saved",
                    fix="take guda_lightning.data.ImageFolder as data.source, with this path",
                )
        return image_table(
            dataset,
            name,
            image_column=self.image_column,
            label_column=self.label_column,
            id_column=self.id_column,
            label_names=None,
            prompt_column=self.prompt_column,
            folder=self._folder(name),
        )

    def _folder(self, name: str) -> Path:
        import datasets

        if self.image_folder is not None:
            return user_path(self.image_folder)
        return Path(name) if Path(name).is_dir() else Path(datasets.config.HF_CACHE_HOME)


def _saved_dataset(origin: str, folder: str, split: str) -> Dataset:
    import datasets

    saved = load_saved(origin, folder)
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
