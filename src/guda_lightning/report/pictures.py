"""Images as pictures: for W&B, for the page, and side by side with captions."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from guda_lightning.data.images import from_unit
from guda_lightning.types import Queries

if TYPE_CHECKING:
    from PIL.Image import Image as Picture
    from PIL.ImageDraw import ImageDraw as Pen
    from torch import Tensor

PIXEL_ART = 64  # up to this size pictures are stored exactly and enlarged without blur
CELL, GAP, CAPTION = 96, 4, 18  # pixels: of a picture's longest side, between pictures, of a line of text


def picture_of(image: Tensor) -> Picture:
    """A picture of one image ``[channels, height, width]`` in [-1, 1]: gray or RGB.

    Channels that are no colours, as two, four or more of them are, stand side by side as gray pictures.
    """
    from PIL import Image

    pixels = from_unit(image).numpy()
    if len(pixels) == 3:
        return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    return Image.fromarray(np.concatenate(pixels, axis=1))


def data_uri(image: Tensor, longest: int) -> str:
    """An image ``[channels, height, width]`` in [-1, 1] as text that a page holds.

    Args:
        image: The image.
        longest: The longest side in pixels; a larger image is shrunk.

    Returns:
        PNG, exact, up to `PIXEL_ART` pixels a side; WebP beyond.
    """
    from PIL import Image

    picture, file = picture_of(image), io.BytesIO()
    exact = max(picture.size) <= PIXEL_ART
    if max(picture.size) > longest:
        picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    if exact:
        picture.save(file, "PNG", optimize=True)
    else:
        picture.save(file, "WEBP", quality=82, method=4)
    return _uri("png" if exact else "webp", file.getvalue())


def svg_uri(drawing: str) -> str:
    """A drawing in SVG as text that a page holds."""
    return _uri("svg+xml", drawing.encode())


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def sheet(pictures: Sequence[Picture], captions: Sequence[str]) -> Picture:
    """Lay out pictures line by line, about as wide as high, each above its caption, if there are any."""
    from PIL import Image, ImageDraw

    wide = math.ceil(math.sqrt(len(pictures)))
    right, down = CELL + GAP, CELL + GAP + CAPTION
    page = Image.new("RGB", (GAP + right * wide, GAP + down * math.ceil(len(pictures) / wide)), "white")
    draw = ImageDraw.Draw(page)
    for number, picture in enumerate(pictures):
        left, top = GAP + right * (number % wide), GAP + down * (number // wide)
        page.paste(_enlarged(picture), (left, top))
        if captions:
            draw.text((left, top + CELL), _fitting(draw, captions[number]), fill="dimgray")
    return page


def side_by_side(columns: Mapping[str, Queries]) -> Picture:
    """Lay out pictures, one column a model and one row a query, under the columns' titles.

    Args:
        columns: Title to pictures; the same queries in each, and names of rows from the first.
    """
    from PIL import Image, ImageDraw

    first = next(iter(columns.values()))
    step, down = CELL + GAP, CELL + GAP + CAPTION
    page = Image.new("RGB", (GAP + step * len(columns), GAP + CAPTION + down * len(first)), "white")
    draw = ImageDraw.Draw(page)
    for column, (title, queries) in enumerate(columns.items()):
        left = GAP + column * step
        draw.text((left, GAP), _fitting(draw, title), fill="black")
        for row, image in enumerate(queries.images):
            top = GAP + CAPTION + row * down
            page.paste(_enlarged(picture_of(image)), (left, top))
            if column == 0:
                draw.text((left, top + CELL), _fitting(draw, first.ids[row]), fill="dimgray")
    return page


def _enlarged(picture: Picture) -> Picture:
    """A picture, its longest side `CELL` pixels; each of a small one's pixels stays a square."""
    from PIL import Image

    picture = picture.convert("RGB")
    scale = CELL / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)


def _fitting(draw: Pen, text: str) -> str:
    """The text, cut to the width of a cell."""
    if draw.textlength(text) <= CELL:
        return text
    while text and draw.textlength(f"{text}...") > CELL:
        text = text[:-1]
    return f"{text}..."
