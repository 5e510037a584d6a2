"""Pictures that somebody drops onto the page, as queries; they stay in memory."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from typing import NamedTuple

import torch
from PIL import Image, UnidentifiedImageError

from guda_lightning.data import GroupDataModule
from guda_lightning.data.given_queries import given_queries
from guda_lightning.errors import QueryError
from guda_lightning.types import Queries

MAX_BYTES = 20 * 2**20  # of a file
MAX_PIXELS = 50_000_000  # of a picture: 150 MB once it is decoded
# Of what Pillow opens: it starts a program for some others, such as Ghostscript for EPS.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
_STILL = {"MPO"}  # several JPEG pictures in a file, of which the first is what viewers show


class Dropped(NamedTuple):
    """A picture as the model takes it.

    Attributes:
        query: One query.
        note: What was done to the picture; may be empty.
    """

    query: Queries
    note: str


def dropped(content: bytes, image_shape: tuple[int, int, int]) -> Dropped:
    """Make a query of the content of a file, cropped and resized as ``--resize true`` does.

    Args:
        content: The bytes of the file.
        image_shape: Channels, height and width that the model takes.

    Raises:
        QueryError: It is no picture, damaged, animated or too large.
    """
    refuse_large(len(content))
    Image.init()  # Pillow knows a few formats alone before
    try:
        with Image.open(BytesIO(content), formats=FORMATS) as picture:
            size = f"{picture.width} x {picture.height} pixels"
            if picture.width * picture.height > MAX_PIXELS:
                raise _too_many_pixels(size)
            frames = getattr(picture, "n_frames", 1)
            if frames > 1 and picture.format not in _STILL:
                raise _unfit("animated", f"{frames} frames", "one picture", "save one frame as PNG")
            queries = given_queries(picture, image_shape, resize=True)
    except QueryError:
        raise
    except UnidentifiedImageError as error:
        found = f"{len(content)} bytes in none of these formats" if content else "an empty file"
        expected = f"one of {', '.join(FORMATS)}"
        raise _unfit("no picture that can be read", found, expected, "convert it to PNG") from error
    except Image.DecompressionBombError as error:
        raise _too_many_pixels(" ".join(str(error).split())) from error
    except Exception as error:  # Pillow raises nearly anything on a damaged file
        raise _unfit(
            "damaged", str(error) or type(error).__name__, "a whole picture", "save it anew"
        ) from error
    _, height, width = image_shape
    fits = (picture.width, picture.height) == (width, height)
    note = "" if fits else f"cropped around its centre and resized from {size} to {width} x {height}"
    return Dropped(queries, note)


def refuse_large(size: int) -> None:
    """Refuse a file by its size in bytes.

    Raises:
        QueryError: It is larger than ``MAX_BYTES``.
    """
    if size > MAX_BYTES:
        most = f"at most {MAX_BYTES / 2**20:.0f} MiB"
        raise _unfit("too large", f"{size / 2**20:.1f} MiB or more", most, "shrink it")


def conditioned(queries: Queries, condition: str, data: GroupDataModule, conditional: bool) -> Queries:
    """Give a query its class label or prompt, where the model takes one.

    Args:
        queries: One query.
        condition: The number of a class or a prompt, as it was typed.
        data: The training data.
        conditional: Whether the model takes either.

    Raises:
        QueryError: There is none, or no such class.
    """
    if not conditional:
        return queries
    if data.prompts is not None:
        if not condition.strip():
            raise _lacking("no prompt", "the prompt that the picture goes with")
        return replace(queries, prompts=(condition,))
    label = whole(condition)
    if label is None or label >= data.num_classes:
        found = repr(condition[:40]) if condition else "no class"
        raise _lacking(found, f"a whole number from 0 to {data.num_classes - 1}")
    return replace(queries, labels=torch.tensor([label]))


def whole(text: str) -> int | None:
    """The whole number that a text from outside is, of at most 18 digits, or None."""
    text = text.strip()
    return int(text) if text.isdecimal() and len(text) <= 18 else None  # int() refuses thousands of digits


def _lacking(found: str, expected: str) -> QueryError:
    return QueryError(
        "this model draws under a condition, and scores a picture under one",
        found=found,
        expected=expected,
        fix="type it beside the picture",
    )


def _unfit(what: str, found: str, expected: str, fix: str) -> QueryError:
    return QueryError(f"the file is {what}", found=found, expected=expected, fix=fix)


def _too_many_pixels(found: str) -> QueryError:
    return _unfit("too large", found, f"at most {MAX_PIXELS // 10**6} million pixels", "shrink it")
