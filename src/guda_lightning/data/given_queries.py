"""Queries as Python has them: pictures, arrays and paths, beside those of ``Queries`` itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from guda_lightning.data.images import UnreadableImage, decoded, to_unit
from guda_lightning.data.query_folder import fitting, load_queries
from guda_lightning.errors import QueryError
from guda_lightning.types import Queries

Picture = Image.Image | Tensor | NDArray[np.generic]
Given = Queries | Picture | str | Path | Sequence[Picture | str | Path]
_COLOURS = (1, 3)  # channels of pictures


def given_queries(given: Given, image_shape: tuple[int, int, int], *, resize: bool = False) -> Queries:
    """Make queries of what a user has at hand.

    A picture or a file is decoded as those of ``QueryFolder``. Names are those of files and, of what has
    none, ``image``, or ``image-0``, ``image-1``, ... where there are several.

    Args:
        given: A Pillow image, the path of an image or of a folder of images, or an array or tensor,
            ``[channels, height, width]`` or ``[queries, channels, height, width]``: uint8 from 0 to 255, or
            floating point in [-1, 1]. Or a list of those, one image each. ``Queries`` are taken as they are.
        image_shape: Channels, height and width that the model takes.
        resize: Whether to make pictures of another shape fit, as ``QueryFolder`` does; floating-point arrays
            must fit as they are.

    Raises:
        QueryError: It is nothing of that kind, of another shape, or has values outside of its range.
    """
    if isinstance(given, Queries):
        return given
    if isinstance(given, str | Path):
        return load_queries(given, image_shape, resize=resize)
    if isinstance(given, Image.Image | Tensor | np.ndarray):
        images = _images(given, "the image", image_shape, resize)
        alone = isinstance(given, Image.Image) or given.ndim == 3
        return Queries(("image",) if alone else tuple(f"image-{n}" for n in range(len(images))), images)
    if not (isinstance(given, Sequence) and given):
        raise _unknown("the query", given)
    names, parts = list[str](), list[Tensor]()
    for number, one in enumerate(given):
        if isinstance(one, str | Path):
            loaded = load_queries(one, image_shape, resize=resize)
            names += loaded.ids
            parts.append(loaded.images)
        else:
            names.append(f"image-{number}")
            parts.append(_images(one, f"image {number}", image_shape, resize))
    images = torch.cat(parts)
    if len(images) != len(names) or len(set(names)) < len(names):
        raise QueryError(
            "a list of queries holds one image each, of different names",
            found=f"{len(images)} images, {len(set(names))} names",
            expected="an image, or the path of an image, for each query",
            fix="pass a tensor of several images by itself, and rename files of one name",
        )
    return Queries(tuple(names), images)


def _images(given: object, name: str, image_shape: tuple[int, int, int], resize: bool) -> Tensor:
    """``[images, channels, height, width]`` in [-1, 1]."""
    if isinstance(given, Image.Image):
        return _picture(given, name, image_shape, resize)[None]
    if not isinstance(given, Tensor | np.ndarray) or given.ndim not in (3, 4):
        raise _unknown(name, given)
    if isinstance(given, np.ndarray):
        if given.dtype != np.uint8 and given.dtype.kind != "f":  # torch takes no objects, nor some numbers
            raise _unknown(name, given)
        values = torch.from_numpy(np.array(given, np.uint8 if given.dtype == np.uint8 else np.float32))
    else:
        values = given.detach().cpu()
    if not (values.dtype == torch.uint8 or values.is_floating_point()):
        raise _unknown(name, given)
    if not values.numel():
        raise QueryError(
            "there is nothing to score",
            found=f"shape {tuple(values.shape)}",
            expected="at least one image",
            fix="pass some images",
        )
    images = values if values.ndim == 4 else values[None]
    shape = tuple(images.shape[1:])
    if shape != image_shape and shape[2] in _COLOURS and shape[0] not in _COLOURS:
        raise QueryError(
            f"{name} has its channels last",
            found=f"{shape}: height, width, channels",
            expected=f"{image_shape}: channels, height, width",
            fix="channels come first: array.transpose(2, 0, 1), or pass the Pillow image",
        )
    if images.dtype == torch.uint8:
        return torch.stack([_bytes(one, name, image_shape, resize) for one in images])
    if shape != image_shape:
        raise QueryError(
            f"{name} does not fit the model",
            found=f"{shape}: channels, height, width",
            expected=image_shape,
            fix="convert it; resize=True resizes Pillow images, files and uint8",
        )
    images = images.float()
    low, high = float(images.min()), float(images.max())
    if not (low >= -1 and high <= 1):  # nor NaN
        raise QueryError(
            f"{name} has values that no image in [-1, 1] has",
            found=f"{low:g} to {high:g}",
            expected="floating-point values from -1 to 1, or uint8 from 0 to 255",
            fix="scale it: x / 127.5 - 1 of values from 0 to 255, 2 * x - 1 of values from 0 to 1",
        )
    if low >= 0:  # a picture without one dark pixel is rarer than a scale of 0 to 1
        raise QueryError(
            f"{name} may be scaled to [0, 1], and the model takes [-1, 1]",
            found=f"{low:g} to {high:g}",
            expected="floating-point values from -1 to 1, some of them negative",
            fix="pass 2 * x - 1; if it is that bright, pass it as uint8 or as a Pillow image",
        )
    return images


def _bytes(pixels: Tensor, name: str, image_shape: tuple[int, int, int], resize: bool) -> Tensor:
    array = pixels.numpy()
    if resize and array.shape != image_shape and len(array) in _COLOURS:
        layers = array[0] if len(array) == 1 else array.transpose(1, 2, 0)
        return _picture(Image.fromarray(np.ascontiguousarray(layers)), name, image_shape, True)
    return to_unit(fitting(array, image_shape, name, _fix(resize)))


def _picture(picture: Image.Image, name: str, image_shape: tuple[int, int, int], resize: bool) -> Tensor:
    channels, height, width = image_shape
    size = (width, height) if resize else None
    try:
        array = decoded(name, lambda: picture, size, (1 if channels == 1 else 3) if resize else None)
    except UnreadableImage as error:
        raise QueryError(
            f"{name} cannot be read",
            found=error.reason,
            expected="a complete picture of 8 bits per channel",
            fix="repair or convert it",
        ) from error
    return to_unit(fitting(array, image_shape, name, _fix(resize)))


def _fix(resize: bool) -> str:
    return "convert it" if resize else "resize and convert it, or pass resize=True"


def _unknown(name: str, given: object) -> QueryError:
    kind = f"{type(given).__module__}.{type(given).__qualname__}".removeprefix("builtins.")
    about = ""
    if isinstance(given, Tensor | np.ndarray):
        about = f" of {given.dtype}, shape {tuple(given.shape)}"
    elif isinstance(given, Sequence) and not given:
        about = " without entries"
    return QueryError(
        f"{name} is nothing that can be scored",
        found=kind + about,
        expected="a Pillow image, a path, or an array [channels, height, width] or [queries, channels, "
        "height, width] of uint8 or floating point",
        fix="convert it, such as with Image.open or torch.from_numpy",
    )
