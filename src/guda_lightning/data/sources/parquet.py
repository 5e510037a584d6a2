"""Images in Parquet files."""

from __future__ import annotations

import glob
from dataclasses import dataclass

from guda_lightning.data.sources.columns import image_table, load_dataset
from guda_lightning.data.sources.source import ImageTable, Source
from guda_lightning.errors import DataError
from guda_lightning.storage.paths import user_path


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
        path = user_path(self.path)
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
        return image_table(
            dataset,
            str(path),
            image_column=self.image_column,
            label_column=self.label_column,
            id_column=self.id_column,
            label_names=self.label_names,
            prompt_column=self.prompt_column,
        )
