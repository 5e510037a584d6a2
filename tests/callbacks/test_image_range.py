"""Images of a validation and the values that they are said to have."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from guda_lightning.callbacks.image_range import ImageRange
from guda_lightning.data.images import to_unit
from guda_lightning.errors import ConfigError, QueryError
from toys import message

BYTES = torch.tensor([0, 1, 128, 255], dtype=torch.uint8).view(1, 1, 2, 2)
UNIT = BYTES.float() / 255
TO_255 = "pass image_range=(0, 255), which scales them to [-1, 1]"
TO_1 = "pass image_range=(0, 1), which scales them to [-1, 1]"


@pytest.mark.parametrize(
    ("bounds", "images"),
    [
        ((-1, 1), to_unit(BYTES)),
        ((0, 255), BYTES),
        ((0, 255), BYTES.float()),
        ((0, 255), BYTES.long()),
        ((0, 1), UNIT),
        ((0, 1), UNIT.double()),
        ((-0.5, 0.5), UNIT - 0.5),
        ((0, 65535), BYTES.int() * 257),
        ((0, 65535), (BYTES.int() * 257).to(torch.uint16)),
    ],
)
def test_images_of_a_stated_range_become_those_of_the_network(
    bounds: tuple[float, float], images: Tensor
) -> None:
    found = ImageRange(bounds).to_unit(images, "images")
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, to_unit(BYTES), rtol=0, atol=1e-6)


def test_bytes_become_what_data_of_ours_make_of_them() -> None:
    """Bit for bit: then they are the same queries, by the hash of their pixels."""
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(ImageRange((0, 255)).to_unit(every, "images"), to_unit(every))


def test_latents_stay_as_they_are() -> None:
    latents = torch.randn(2, 4, 3, 3) * 9
    assert torch.equal(ImageRange(None).to_unit(latents, "images"), latents)


@pytest.mark.parametrize(
    ("bounds", "images", "found", "fix"),
    [
        ((-1, 1), BYTES, "uint8 values from 0 to 255", TO_255),
        ((-1, 1), BYTES.float(), "float32 values from 0 to 255", TO_255),
        ((-1, 1), BYTES * 0, "uint8 values from 0 to 0", TO_255),  # black
        ((-1, 1), BYTES > 0, "bool values from 0 to 1", TO_1),
        ((-1, 1), BYTES.int() * 257, "int32 values from 0 to 65535", TO_255.replace("255", "65535")),
        ((0, 1), BYTES, "uint8 values from 0 to 255", TO_255),
        (None, BYTES, "uint8 values from 0 to 255", TO_255),
        ((0, 1), UNIT * 2 - 1, "float32 values from -1 to 1", "pass image_range=(-1, 1), or leave it out"),
        ((0, 255), UNIT * 2 - 1, "float32 values from -1 to 1", "pass image_range=(-1, 1), or leave it out"),
        (
            (-1, 1),
            UNIT * 2.2 - 1.1,
            "float32 values from -1.1 to 1.1",
            "clip what goes beyond, as resizing does, in the validation data: images.clamp(-1, 1)",
        ),
        (
            (-1, 1),
            UNIT * 5 - 2,
            "float32 values from -2 to 3",
            "scale images to [-1, 1] in the validation data; image_range=None takes latents as they are",
        ),
    ],
)
def test_images_of_another_range_are_refused(
    bounds: tuple[float, float] | None, images: Tensor, found: str, fix: str
) -> None:
    low, high = bounds or (-1, 1)
    expected = message(
        "the images are not in the stated image_range", found, f"values from {low} to {high}", fix
    )
    with pytest.raises(QueryError, match=expected):
        ImageRange(bounds).to_unit(images, "the images")


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("bounds", [(-1, 1), None])
def test_values_that_are_no_numbers_are_refused(bounds: tuple[float, float] | None, value: float) -> None:
    expected = message(
        "the images hold values that are no numbers",
        "1 of 4 values are NaN or infinite",
        "finite values",
        "look for a division by zero in the transforms of the validation data",
    )
    images = UNIT.clone()
    images[0, 0, 0, 0] = value
    with pytest.raises(QueryError, match=expected):
        ImageRange(bounds).to_unit(images, "the images")


@pytest.mark.parametrize(
    ("bounds", "batches", "ambiguous"),
    [
        ((-1, 1), [UNIT, UNIT], True),
        ((-1, 1), [UNIT, to_unit(BYTES)], False),  # one dark image among bright ones
        ((0, 255), [UNIT], True),
        ((0, 255), [BYTES // 255], True),
        ((0, 255), [BYTES // 255, BYTES], False),
        ((0, 1), [UNIT], None),
        (None, [UNIT], None),
        ((-1, 1), [], None),
    ],
)
def test_a_validation_within_0_and_1_is_refused_where_the_range_is_wider(
    bounds: tuple[float, float] | None, batches: list[Tensor], ambiguous: bool | None
) -> None:
    values = ImageRange(bounds)
    for batch in batches:
        values.look(batch)
    assert values.ambiguous is ambiguous
    values.start()
    assert values.ambiguous is None


def test_one_process_may_see_bright_images_alone() -> None:
    for found in ([True, False], [False], [None], [None, False], []):
        ImageRange((-1, 1)).refuse_ambiguous("the images", found)
    for found in ([True], [True, None]):
        with pytest.raises(QueryError, match="the images look like images in"):
            ImageRange((-1, 1)).refuse_ambiguous("the images", found)


def test_a_range_rises() -> None:
    expected = message(
        "image_range is no range",
        (1, -1),
        "the lowest and the highest value of an image",
        "pass image_range=(-1, 1), (0, 1) or (0, 255); image_range=None takes values as they are",
    )
    with pytest.raises(ConfigError, match=expected):
        ImageRange((1, -1))
