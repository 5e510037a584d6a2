"""Pictures side by side, as one picture with captions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from guda_lightning.data.images import from_unit
from guda_lightning.types import Queries

if TYPE_CHECKING:
    from PIL.Image import Image as Picture
    from PIL.ImageDraw import ImageDraw as Pen
    from torch import Tensor

CELL, GAP, CAPTION = 96, 4, 18  # pixels: of a picture's longest side, between pictures, of a line of text


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
            page.paste(_enlarged(image), (left, top))
            if column == 0:
                draw.text((left, top + CELL), _fitting(draw, first.ids[row]), fill="dimgray")
    return page


def _enlarged(image: Tensor) -> Picture:
    """One image in [-1, 1], its longest side `CELL` pixels; each of a small one's pixels stays a square."""
    from PIL import Image

    pixels = from_unit(image).permute(1, 2, 0).numpy()
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).convert("RGB")
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
