"""Images in Parquet files."""

from __future__ import annotations

import glob
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

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
        image_folder: Folder of the images, where the image column holds their paths in it; what lies outside
            is not read. None: that of the files.
    """

    path: str
    image_column: str = "img"
    label_column: str | None = "label"
    id_column: str | None = None
    label_names: list[str] | None = None
    prompt_column: str | None = None
    image_folder: str | None = None

    def load(self) -> ImageTable:
        """List the rows in the order of the files' names."""
        path = user_path(self.path)
        files = _files(path)
        names = [glob.escape(str(file)) for file in files]
        dataset = load_dataset(
            f"the Parquet data {path}",
            "parquet",
            data_files=names,
            split="train",
            batch_size=_ROWS,
        )
        return image_table(
            dataset,
            str(path),
            image_column=self.image_column,
            label_column=self.label_column,
            id_column=self.id_column,
            label_names=self.label_names,
            prompt_column=self.prompt_column,
            folder=files[0].parent if self.image_folder is None else user_path(self.image_folder),
        )


_ROWS = 1000  # read at a time; without a number, the library fails on files that have no rows
# As the library tells splits apart by the names of files.
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SPLIT_OF = {word: split for split, words in _SPLITS.items() for word in words}
_WORD = re.compile(rf"(?<![a-z])({'|'.join(_SPLIT_OF)})(?![a-z])", re.IGNORECASE)


def _files(path: Path) -> list[Path]:
    """The files of a path in the order of their names.

    Raises:
        DataError: There are none, or a folder holds several splits.
    """
    if path.is_file():
        return [path]
    if path.is_dir():
        files = _parquet_files(path.iterdir())
        _refuse_several_splits(path, files)
    else:
        found = path.parent.glob(path.name) if path.parent.is_dir() else map(Path, glob.glob(str(path)))
        files = sorted(file for file in found if file.is_file())
    if not files:
        inside = _parquet_files(path.rglob("*")) if path.is_dir() else []
        folders = sorted({file.parent for file in inside})
        raise DataError(
            f"no Parquet file at {path}",
            found="a folder without .parquet files" + (f", but with {min(inside)}" if inside else "")
            if path.is_dir()
            else "nothing there",
            expected="a .parquet file, a folder of them, or a pattern that matches some",
            fix=f"set data.source.path to {' or '.join(map(str, folders[:3]))}"
            + (", or to a pattern for several of them" if len(folders) > 1 else "")
            if folders
            else "correct the path",
        )
    return files


def _parquet_files(found: Iterable[Path]) -> list[Path]:
    return sorted(
        file
        for file in found
        if file.suffix.lower() == ".parquet" and not file.name.startswith("._") and file.is_file()
    )


def _refuse_several_splits(path: Path, files: Sequence[Path]) -> None:
    words = {file: _WORD.search(file.stem) for file in files}
    splits = {file: _SPLIT_OF[word[1].lower()] if word else "" for file, word in words.items()}
    if len(set(splits.values())) < 2 or not {"validation", "test"} & set(splits.values()):
        return
    named = {split or "no split": file.name for file, split in reversed(splits.items())}
    counts = Counter(split or "no split" for split in splits.values())
    first = min(files, key=lambda file: splits[file] != "train")
    word = words[first]
    start = first.stem[: word.end()] if word else first.stem
    raise DataError(
        f"the folder {path} holds several splits",
        found=", ".join(f"{count} of {split} ({named[split]})" for split, count in counts.items()),
        expected="the files of one split, or a pattern that says which are meant",
        fix=f"set data.source.path to {path / start}*.parquet, or to {path}/*.parquet for all of them",
    )
