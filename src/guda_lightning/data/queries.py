"""Queries: the samples to explain, what identifies them, and how they are written."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from guda_lightning.data.image_files import ignored_kind, unfit_name
from guda_lightning.data.images import from_unit, to_unit
from guda_lightning.errors import QueryError
from guda_lightning.storage.files import canonical_json, sha256_json
from guda_lightning.storage.seals import sealed_folder, sealed_json
from guda_lightning.types import Queries

_NAME_BYTES = 255  # of a file, on the usual file systems


def save_queries(folder: str | Path, queries: Queries, record: Mapping[str, Any]) -> None:
    """Write queries as 8-bit PNGs named by id, with ``metadata.jsonl`` and ``record.json``, all or nothing.

    Args:
        folder: Where to; an existing folder is replaced.
        queries: What to write; values are rounded to 256 levels and clipped to [-1, 1].
        record: What made them. ``query_hash`` (of the queries as ``load_queries`` returns them) and
            ``complete: true`` are added.

    Raises:
        QueryError: No queries, or an id that cannot be the name of a file beside the others.
        StoreError: The disk is full.
    """
    from PIL import Image

    if not queries.ids:
        raise QueryError(
            "there are no queries to save", found="0 queries", expected="at least 1", fix="sample some"
        )
    for query_id in queries.ids:
        refuse_unfit_id(query_id)
    refuse_shadowed(queries.ids)
    digest, lines = QueryHash(), []
    with sealed_folder(folder) as temporary:
        for row, query_id in enumerate(queries.ids):
            one, name = queries.take([row]), f"{query_id}.png"
            pixels = from_unit(one.images)
            digest.add(replace(one, images=to_unit(pixels)))
            lines.append({"file_name": name, **_condition(one)})
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            image = pixels[0].numpy()
            array = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
            Image.fromarray(np.ascontiguousarray(array)).save(temporary / name)
        (temporary / "metadata.jsonl").write_text(
            "".join(canonical_json(line) + "\n" for line in lines), "utf-8"
        )
        complete = {**record, "query_hash": digest.hexdigest(), "complete": True}
        (temporary / "record.json").write_bytes(sealed_json(complete))


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


def _condition(query: Queries) -> dict[str, Any]:
    """What the metadata say of one query besides its file: its prompt, or its class label."""
    if query.prompts is not None:
        return {"prompt": query.prompts[0]}
    return {} if query.labels is None else {"label": int(query.labels)}


def query_hash(queries: Queries) -> str:
    """Hash of ids, conditions and exact pixels (sha256): what a stored score was computed on."""
    digest = QueryHash()
    digest.add(queries)
    return digest.hexdigest()


class QueryHash:
    """The ``query_hash`` of queries that are never in memory together."""

    def __init__(self) -> None:
        self._ids: list[str] = []
        self._labels: list[int] | None = None
        self._prompts: list[str] | None = None
        self._shape: tuple[int, ...] = ()
        self._pixels = hashlib.sha256()

    def add(self, queries: Queries) -> None:
        """Take the next queries; all have labels, or prompts, or none of them has."""
        self._ids += queries.ids
        self._shape = tuple(queries.images.shape[1:])
        if queries.prompts is not None:
            self._prompts = self._prompts or []
            self._prompts += queries.prompts  # in place: one query may come at a time, and there may be many
        elif queries.labels is not None:  # a prompt's number depends on which others were seen before
            self._labels = self._labels or []
            self._labels += queries.labels.tolist()
        for image in queries.images:
            self._pixels.update(image.detach().cpu().float().contiguous().numpy().astype("<f4").data)

    def hexdigest(self) -> str:
        """Hash of all that was added: 64 hexadecimal digits."""
        return sha256_json(
            {
                "ids": self._ids,
                "labels": self._labels,
                **({} if self._prompts is None else {"prompts": self._prompts}),
                "shape": (len(self._ids), *self._shape),
                "pixels": self._pixels.hexdigest(),
            }
        )


def refuse_shadowed(ids: Collection[str]) -> None:
    """Refuse ids of which one names the file that another has for its folder when they are stored.

    Raises:
        QueryError: One does.
    """
    stored = {f"{query_id}.png" for query_id in ids}
    for query_id in ids:
        for folder in PurePosixPath(query_id).parents:
            if str(folder) in stored:
                other = str(folder).removesuffix(".png")
                raise QueryError(
                    f"the queries {other!r} and {query_id!r} cannot be stored beside each other",
                    found=f"the folder {str(folder)!r}, which is also the name of a picture",
                    expected="folders that are not called as pictures beside them",
                    fix="rename the folder",
                )


def refuse_unfit_id(query_id: str) -> None:
    """Refuse an id that the query's file cannot be called by when it is stored.

    Raises:
        QueryError: It cannot.
    """
    path = PurePosixPath(query_id)
    parts = [*path.parts[:-1], f"{path.name}.png"]
    safe = (
        path.parts
        and query_id == path.as_posix()
        and not path.is_absolute()
        and not PureWindowsPath(query_id).drive
        and "\\" not in query_id
        and all(part not in (".", "..") and unfit_name(part) is None for part in parts)
        and all(len(part.encode()) <= _NAME_BYTES for part in parts)
        and all(ignored_kind(part, part is not parts[-1]) is None for part in parts)
    )
    if not safe:
        raise QueryError(
            f"the query id {query_id!r} cannot be a file name",
            found=repr(query_id),
            expected="a relative path without '..', backslash, control characters or names of system files",
            fix="rename the query",
        )
