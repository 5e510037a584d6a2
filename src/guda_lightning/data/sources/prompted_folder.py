"""A folder of images whose prompts lie in a file of their own, such as UnlearnCanvas."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from guda_lightning.data.rows import read_rows, require_columns
from guda_lightning.data.sources.image_folder import list_images
from guda_lightning.data.sources.source import ImageTable, Source
from guda_lightning.errors import DataError
from guda_lightning.storage.paths import user_path

_EXAMPLE = '{"style": "Van Gogh", "object": "Dogs", "prompt": "An artwork of Dogs, with swirls"}'


@dataclass(frozen=True)
class _Row:
    line: int
    place: str  # a file's path, or `_folder` with a slash at its end
    prompt: str
    style: str | None


@dataclass(frozen=True)
class PromptedFolder(Source):
    """A folder of images, anywhere in it, and a file with their prompts.

    A row of the file has a ``prompt`` and either ``file_name``, the path of one image inside the folder, or
    ``style`` and ``object``, which speak of every image in ``<style>/<object>/``. Spaces and underscores in
    the names of these two folders are alike. Of several rows for one folder, its images take turns, sorted by
    path. A row with a ``file_name`` goes before those of its folder.

    The labels are the styles: the row's ``style`` if it has one, else the first folder. Ids are paths.

    Args:
        path: The folder.
        prompts: The file with the prompts: ``.jsonl`` or ``.csv``.
        missing: ``refuse`` images without a prompt and prompts without an image, or ``drop`` both.
    """

    path: str
    prompts: str
    missing: Literal["refuse", "drop"] = "refuse"

    def load(self) -> ImageTable:
        """List the images that have a prompt, sorted by path."""
        prompts = user_path(self.prompts)
        layout = "images, such as <style>/<object>/1.jpg"
        ids, read = list_images(self.path, layout, beside=[prompts])
        rows = _rows(prompts)
        matched: dict[int, _Row] = {}
        turns: Counter[str] = Counter()
        for position, name in enumerate(ids):
            place = next((place for place in _places(name) if place in rows), None)
            if place is not None:
                matched[position] = rows[place][turns[place] % len(rows[place])]
                turns[place] += 1
        if self.missing == "refuse":
            self._refuse(ids, [ids[position] for position in matched], rows, turns)
        kept = tuple(matched)
        labels = self._labels([ids[position] for position in kept], list(matched.values()))
        return ImageTable(
            ids=tuple(ids[position] for position in kept),
            read=lambda index: read(kept[index]),
            labels=labels,
            label_names=tuple(sorted(set(labels or ()))),
            prompts=tuple(row.prompt for row in matched.values()),
        )

    def _refuse(
        self,
        ids: Sequence[str],
        with_prompt: Sequence[str],
        rows: dict[str, list[_Row]],
        turns: Counter[str],
    ) -> None:
        styles = dict.fromkeys(name.split("/")[0] for name in ids if "/" in name)
        known = {name.split("/")[0] for name in with_prompt}
        images, known_images = dict.fromkeys(ids), set(with_prompt)
        lines = {f"line {row.line} for {row.place}": place for place in rows for row in rows[place]}
        for what, all_of_them, left in (
            ("style folders without any prompt", styles, [name for name in styles if name not in known]),
            ("images without a prompt", images, [name for name in images if name not in known_images]),
            ("prompts without an image", lines, [line for line in lines if lines[line] not in turns]),
        ):
            if left:
                raise DataError(
                    f"the folder {Path(self.path)} and the prompts {Path(self.prompts)} do not fit: {what}",
                    found=f"{len(left)} of {len(all_of_them)}: {', '.join(left[:3])}"
                    + (", ..." if len(left) > 3 else ""),
                    expected="a prompt for every image, and an image for every prompt",
                    fix="add what is missing, or set data.source.missing to drop, which leaves these out",
                )

    def _labels(self, ids: Sequence[str], rows: Sequence[_Row]) -> tuple[str, ...] | None:
        styles = [
            row.style or (name.split("/")[0] if "/" in name else None)
            for name, row in zip(ids, rows, strict=True)
        ]
        if None in styles and any(styles):
            raise DataError(
                f"some images of {Path(self.path)} have no style",
                found=f"{styles.count(None)} of {len(ids)} images, such as {ids[styles.index(None)]}",
                expected="every image in a style's folder or with a style in its row, or none",
                fix=f"add a column 'style' to {Path(self.prompts)}",
            )
        spelling: dict[str, str] = {}  # one for each style, which rows and folders may write in two ways
        labels = [spelling.setdefault(_alike(style), style) for style in styles if style is not None]
        return tuple(labels) or None


def _alike(name: str) -> str:
    return name.replace("_", " ")


def _folder(style: str, thing: str) -> str:
    return f"{_alike(style)}/{_alike(thing)}/"


def _places(name: str) -> list[str]:
    folders = name.split("/")[:-1]
    return [name, _folder(*folders[:2])] if len(folders) > 1 else [name]


def _rows(path: Path) -> dict[str, list[_Row]]:
    """Read the rows of each place."""
    rows: dict[str, list[_Row]] = {}
    for line, cells in read_rows(path, "file of prompts", _EXAMPLE):
        require_columns(path, line, cells, ("prompt",))
        if "file_name" in cells:
            place = PurePosixPath(_text(path, line, cells, "file_name")).as_posix()
            if place in rows:
                raise DataError(
                    f"{path}, line {line}: the image has a prompt already",
                    found=f"{place}, which line {rows[place][0].line} has, too",
                    expected="one row per image",
                    fix="remove one of the two",
                )
        elif {"style", "object"} <= cells.keys():
            place = _folder(_text(path, line, cells, "style"), _text(path, line, cells, "object"))
        else:
            raise DataError(
                f"{path}, line {line}: the prompt names no image",
                found=f"the columns {', '.join(map(repr, cells))}",
                expected="a column 'file_name', or the columns 'style' and 'object'",
                fix="name the columns so, or fill in the line",
            )
        style = _text(path, line, cells, "style") if "style" in cells else None
        rows.setdefault(place, []).append(_Row(line, place, _text(path, line, cells, "prompt"), style))
    return rows


def _text(path: Path, line: int, cells: dict[str, object], column: str) -> str:
    value = cells[column]
    if not isinstance(value, str) or not value.strip():
        raise DataError(
            f"{path}, line {line}: no text in the column '{column}'",
            found=repr(value),
            expected="a text",
            fix="fill in the line",
        )
    return value
