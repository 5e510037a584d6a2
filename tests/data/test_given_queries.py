"""Images as Python has them: what is no image, of another shape or out of range is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from guda_lightning.data.given_queries import given_queries
from guda_lightning.errors import QueryError
from guda_lightning.types import Queries
from toys import gray_queries, message

SHAPE = (3, 4, 6)
KINDS = (
    "a Pillow image, a path, or an array [channels, height, width] or [queries, channels, height, width] of "
    "uint8 or floating point"
)
CONVERT = "convert it, such as with Image.open or torch.from_numpy"


def test_every_form_of_an_image_gives_the_same_pixels(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)
    image = Image.fromarray(pixels.transpose(1, 2, 0))
    image.save(tmp_path / "mine.png")
    unit = torch.from_numpy(pixels).float() / 127.5 - 1
    forms: list[Any] = [image, tmp_path / "mine.png", pixels, torch.from_numpy(pixels)[None], unit]
    forms += [unit.numpy().astype(kind) for kind in (">f4", np.longdouble)]
    found = [given_queries(form, SHAPE) for form in (*forms, forms)]
    assert [one.ids for one in found[:5]] == [("image",), ("mine",), ("image",), ("image-0",), ("image",)]
    assert found[-1].ids == ("image-0", "mine", *(f"image-{number}" for number in range(2, 7)))
    for one in found:
        for row in one.images:
            torch.testing.assert_close(row, unit, rtol=0, atol=0)
        assert set(one.noise_keys) == set(found[0].noise_keys)


def test_gray_fits_colour_and_resizing_is_that_of_files(tmp_path: Path) -> None:
    gray = np.random.default_rng(0).integers(0, 256, (1, 8, 12), np.uint8)
    Image.fromarray(gray[0]).save(tmp_path / "gray.png")
    expected = given_queries(tmp_path / "gray.png", SHAPE, resize=True).images
    assert torch.equal(given_queries(gray, SHAPE, resize=True).images, expected)
    assert torch.equal(given_queries(Image.fromarray(gray[0]), SHAPE, resize=True).images, expected)


def test_queries_stay_as_they_are() -> None:
    queries = gray_queries("a", "b")
    assert given_queries(queries, SHAPE) is queries


def test_noise_is_keyed_by_pixels_alone() -> None:
    images = torch.rand(3, 1, 4, 4)
    images[2] = images[0]
    first, second, third = Queries(("a", "b", "c"), images).noise_keys
    assert first == third != second
    renamed = Queries(("x", "y"), images[:2].double(), labels=torch.tensor([1, 2]))
    assert renamed.noise_keys == renamed.take([0, 1]).noise_keys == (first, second)
    assert Queries(("a",), images[:1].view(1, 1, 2, 8)).noise_keys != (first,)  # another shape
    zero = torch.zeros(1, 1, 2, 2)
    assert Queries(("a",), zero).noise_keys == Queries(("a",), -zero).noise_keys


@pytest.mark.parametrize(
    ("given", "problem", "found", "expected", "fix"),
    [
        (3, "the query is nothing that can be scored", "int", KINDS, CONVERT),
        ([], "the query is nothing that can be scored", "list without entries", KINDS, CONVERT),
        ([3], "image 0 is nothing that can be scored", "int", KINDS, CONVERT),
        (
            torch.zeros(SHAPE, dtype=torch.int64),
            "the image is nothing that can be scored",
            "torch.Tensor of torch.int64, shape (3, 4, 6)",
            KINDS,
            CONVERT,
        ),
        (
            np.zeros((4, 6)),
            "the image is nothing that can be scored",
            "numpy.ndarray of float64, shape (4, 6)",
            KINDS,
            CONVERT,
        ),
        (
            np.array([[["a.png", None]]], dtype=object),
            "the image is nothing that can be scored",
            "numpy.ndarray of object, shape (1, 1, 2)",
            KINDS,
            CONVERT,
        ),
        (
            np.zeros((4, 4, 6), np.uint8),
            "the image does not fit the model",
            "6 x 4 pixels, 4 channels",
            "6 x 4 pixels, 3 channels",
            "resize and convert it, or pass resize=True",
        ),
        (
            np.zeros((3, 4, 5)),
            "the image does not fit the model",
            "(3, 4, 5): channels, height, width",
            "(3, 4, 6)",
            "convert it; resize=True resizes Pillow images, files and uint8",
        ),
        (
            torch.full(SHAPE, 1.5),
            "the image has values that no image in [-1, 1] has",
            "1.5 to 1.5",
            "floating-point values from -1 to 1, or uint8 from 0 to 255",
            "scale it: x / 127.5 - 1 of values from 0 to 255, 2 * x - 1 of values from 0 to 1",
        ),
        (
            torch.full(SHAPE, torch.nan),
            "the image has values that no image in [-1, 1] has",
            "nan to nan",
            "floating-point values from -1 to 1, or uint8 from 0 to 255",
            "scale it: x / 127.5 - 1 of values from 0 to 255, 2 * x - 1 of values from 0 to 1",
        ),
        (
            torch.linspace(0, 1, 72).view(SHAPE),
            "the image may be scaled to [0, 1], and the model takes [-1, 1]",
            "0 to 1",
            "floating-point values from -1 to 1, some of them negative",
            "pass 2 * x - 1; if it is that bright, pass it as uint8 or as a Pillow image",
        ),
        (
            torch.zeros(0, *SHAPE),
            "there is nothing to score",
            "shape (0, 3, 4, 6)",
            "at least one image",
            "pass some images",
        ),
        (
            [-torch.ones(2, *SHAPE)],
            "a list of queries holds one image each, of different names",
            "2 images, 1 names",
            "an image, or the path of an image, for each query",
            "pass a tensor of several images by itself, and rename files of one name",
        ),
        (
            Image.new("I;16", (6, 4)),
            "the image cannot be read",
            "a picture of mode 'I;16', not 8-bit gray or colour",
            "a complete picture of 8 bits per channel",
            "repair or convert it",
        ),
    ],
)
def test_what_is_no_image_is_refused(given: Any, problem: str, found: str, expected: str, fix: str) -> None:
    with pytest.raises(QueryError, match=message(problem, found, expected, fix)):
        given_queries(given, SHAPE)


@pytest.mark.parametrize("resize", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_channels_come_first(dtype: type, resize: bool) -> None:
    text = message(
        "the image has its channels last",
        "(4, 6, 3): height, width, channels",
        "(3, 4, 6): channels, height, width",
        "channels come first: array.transpose(2, 0, 1), or pass the Pillow image",
    )
    with pytest.raises(QueryError, match=text):
        given_queries(np.zeros((4, 6, 3), dtype), SHAPE, resize=resize)


def test_resizing_is_not_advised_where_it_was_asked_for() -> None:
    shapes = "6 x 4 pixels, 4 channels", "6 x 4 pixels, 3 channels"
    with pytest.raises(QueryError, match=message("the image does not fit the model", *shapes, "convert it")):
        given_queries(np.zeros((4, 4, 6), np.uint8), SHAPE, resize=True)
