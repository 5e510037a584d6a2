"""Queries: the samples to explain, as images on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from io import BytesIO
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import torch

from guda_lightning.data.images import (
    IMAGE_ERRORS,
    IMAGE_SUFFIXES,
    Channels,
    from_unit,
    reason,
    to_bytes,
    to_unit,
)
from guda_lightning.errors import QueryError
from guda_lightning.files import atomic_folder, canonical_json, sha256_json
from guda_lightning.types import Queries


def load_queries(path: str | Path, image_shape: tuple[int, int, int], *, resize: bool = False) -> Queries:
    """Read one image, or a folder of images with the folders inside it.

    An id is the path inside the folder without its suffix. A ``metadata.jsonl`` in the folder, with
    ``file_name`` and perhaps a whole-number ``label`` or a text ``prompt`` on each line, gives the order, the
    class labels and the prompts; without it, queries are sorted by path and have neither.

    Args:
        path: The file or folder.
        image_shape: Channels, height and width that the model takes.
        resize: Whether to make other images fit: cropped around the centre, resized (Lanczos), coloured ones
            turned to gray for a gray model. Gray images always fit a colour model.

    Raises:
        QueryError: No images, a damaged one, one of another shape, two of one id, or unfit metadata.
    """
    path = Path(path)
    names, labels, prompts = _listing(path)
    folder = path if path.is_dir() else path.parent
    ids = tuple(PurePosixPath(name).with_suffix("").as_posix() for name in names)
    for position, query_id in enumerate(ids):
        if query_id in ids[:position]:
            raise QueryError(
                f"two queries have the id '{query_id}'",
                found=f"the files '{names[ids.index(query_id)]}' and '{names[position]}'",
                expected="names that differ without their suffixes",
                fix="rename or remove one of them",
            )
    images = torch.stack([_image(folder / name, image_shape, resize) for name in names])
    return Queries(ids, to_unit(images), None if labels is None else torch.tensor(labels), prompts)


def save_queries(folder: str | Path, queries: Queries, record: Mapping[str, Any]) -> None:
    """Write queries as 8-bit PNGs named by id, with ``metadata.jsonl`` and ``record.json``, all or nothing.

    Args:
        folder: Where to; an existing folder is replaced.
        queries: What to write; values are rounded to 256 levels and clipped to [-1, 1].
        record: What made them. ``query_hash`` (of the queries as ``load_queries`` returns them) and
            ``complete: true`` are added.

    Raises:
        QueryError: No queries, or an id that cannot be a file name.
        StoreError: The disk is full.
    """
    from PIL import Image

    if not queries.ids:
        raise QueryError(
            "there are no queries to save", found="0 queries", expected="at least 1", fix="sample some"
        )
    for query_id in queries.ids:
        _check_name(query_id)
    pixels = from_unit(queries.images)
    stored = replace(queries, images=to_unit(pixels))
    with atomic_folder(folder) as temporary:
        lines = []
        for row, (query_id, image) in enumerate(zip(queries.ids, pixels.numpy(), strict=True)):
            name = f"{query_id}.png"
            lines.append({"file_name": name, **_condition(queries, row)})
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            array = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
            Image.fromarray(np.ascontiguousarray(array)).save(temporary / name)
        (temporary / "metadata.jsonl").write_text(
            "".join(canonical_json(line) + "\n" for line in lines), "utf-8"
        )
        complete = {**record, "query_hash": query_hash(stored), "complete": True}
        (temporary / "record.json").write_text(canonical_json(complete, indent=2) + "\n", "utf-8")


def with_labels(queries: Queries, conditional: bool, num_classes: int) -> Queries:
    """The queries with class labels for a conditional model, without them for any other, and without prompts.

    Raises:
        QueryError: A conditional model got queries without labels, or with labels that it has no class for.
    """
    if conditional and queries.labels is not None:
        wrong = queries.labels[(queries.labels < 0) | (queries.labels >= num_classes)]
        if len(wrong):
            raise QueryError(
                "a query has a label that the model has no class for",
                found=f"label {int(wrong[0])}",
                expected=f"0 to {num_classes - 1}",
                fix="correct metadata.jsonl beside the queries",
            )
    if conditional and queries.labels is None:
        raise QueryError(
            "a label-conditional model cannot score queries without labels",
            found=f"{len(queries)} queries without labels",
            expected="a metadata.jsonl beside them with file_name and label on each line",
            fix="write it, or use queries that `guda sample` drew",
        )
    return replace(queries, prompts=None, labels=queries.labels if conditional else None)


def _condition(queries: Queries, row: int) -> dict[str, Any]:
    """What the metadata say of a query besides its file: its prompt, or its class label."""
    if queries.prompts is not None:
        return {"prompt": queries.prompts[row]}
    return {} if queries.labels is None else {"label": int(queries.labels[row])}


def query_hash(queries: Queries) -> str:
    """Hash of ids, conditions and exact pixels (sha256): what a stored score was computed on."""
    pixels = queries.images.detach().cpu().float().contiguous().numpy().astype("<f4")
    # A prompt's number depends on which others were seen before.
    labels = queries.labels if queries.prompts is None else None
    return sha256_json(
        {
            "ids": queries.ids,
            "labels": None if labels is None else labels.tolist(),
            **({} if queries.prompts is None else {"prompts": queries.prompts}),
            "shape": pixels.shape,
            "pixels": hashlib.sha256(pixels.tobytes()).hexdigest(),
        }
    )


def _listing(path: Path) -> tuple[list[str], list[int] | None, tuple[str, ...] | None]:
    """File names inside the folder, their labels and their prompts if there are any."""
    if path.is_file():
        return [path.name], None, None
    if not path.is_dir():
        raise QueryError(
            f"there are no queries at {path}",
            found="nothing there",
            expected="an image file or a folder of images",
            fix="correct the path",
        )
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
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
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


def _image(path: Path, image_shape: tuple[int, int, int], resize: bool) -> torch.Tensor:
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


def _check_name(query_id: str) -> None:
    path = PurePosixPath(query_id)
    safe = (
        query_id == path.as_posix()
        and not path.is_absolute()
        and not PureWindowsPath(query_id).drive
        and all(part not in (".", "..") and not part.startswith(".") for part in path.parts)
        and query_id.isprintable()
        and "\\" not in query_id
        and all(len(f"{part}.png".encode()) <= 255 for part in path.parts)
        and path.parts
    )
    if not safe:
        raise QueryError(
            f"the query id {query_id!r} cannot be a file name",
            found=repr(query_id),
            expected="a relative path without '..', hidden names, backslashes or control characters",
            fix="rename the query",
        )
