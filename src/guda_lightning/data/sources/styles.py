"""A dozen styles that small pictures are rendered in, made of plain image operations."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from PIL import Image, ImageChops, ImageDraw, ImageEnhance, ImageFilter, ImageOps

# Takes a square RGB picture of at least 16 pixels and returns one of its size. Most leave the dice alone.
Render = Callable[[Image.Image, Random], Image.Image]


def _tones(image: Image.Image) -> Image.Image:
    """Gray from black to white, for styles with few tones, in which a pale picture would be one of them."""
    return ImageOps.autocontrast(ImageOps.grayscale(image), cutoff=2)


def _ember(image: Image.Image, dice: Random) -> Image.Image:
    return ImageOps.colorize(ImageOps.grayscale(image), "#1c0400", "#ffe9a0", mid="#d8400f")


def _halftone(image: Image.Image, dice: Random) -> Image.Image:
    """Dots that grow with the darkness, on paper."""
    dots, detail = 11, 16
    tones = _tones(image).resize((dots, dots), Image.Resampling.BOX)
    page = Image.new("RGB", (dots * detail, dots * detail), "#fff6e0")
    draw = ImageDraw.Draw(page)
    for number, tone in enumerate(tones.tobytes()):
        radius = detail * 0.62 * (1 - tone / 255) ** 0.5
        x, y = (detail * (place + 0.5) for place in (number % dots, number // dots))
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill="#c8143c")
    return page.resize(image.size, Image.Resampling.BOX)


def _negative(image: Image.Image, dice: Random) -> Image.Image:
    return ImageOps.invert(image)


def _neon(image: Image.Image, dice: Random) -> Image.Image:
    """Outlines that glow in the dark."""
    gray = ImageOps.grayscale(image)
    edges = ImageChops.difference(
        gray.filter(ImageFilter.MaxFilter(3)), gray.filter(ImageFilter.MinFilter(3))
    )
    return ImageOps.colorize(ImageOps.autocontrast(edges), "#07000f", "#f4ff61", mid="#00d9c0")


def _mosaic(image: Image.Image, dice: Random) -> Image.Image:
    """Square tiles with joints between them."""
    tiles = 8
    flat = ImageEnhance.Color(image).enhance(2).resize((tiles, tiles), Image.Resampling.BOX)
    wall = flat.resize(image.size, Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(wall)
    for tile in range(tiles):
        place = tile * image.width // tiles
        draw.line((place, 0, place, image.height), fill="#b08d57")
        draw.line((0, place, image.width, place), fill="#b08d57")
    return wall


def _frosted(image: Image.Image, dice: Random) -> Image.Image:
    """Behind a pane with grains of ice, each pane another one."""
    grain = Image.frombytes("L", image.size, dice.randbytes(image.width * image.height))
    ice = ImageOps.colorize(grain, "#6fa8d0", "#ffffff")
    return Image.blend(image.filter(ImageFilter.GaussianBlur(image.width / 40)), ice, 0.5)


def _poster(image: Image.Image, dice: Random) -> Image.Image:
    """Four flat colours."""
    flat = _tones(image).point([tone // 64 for tone in range(256)])
    flat.putpalette(bytes.fromhex("2d1e6b" + "00a6a6" + "f45d9c" + "ffe14d"))
    return flat.convert("RGB")


def _hatching(image: Image.Image, dice: Random) -> Image.Image:
    """Ink lines on paper: one way in half shadow, both ways in full shadow."""
    gray = _tones(image)
    page = Image.new("L", image.size, 255)
    side, step = image.width, image.width // 6
    for darkest, slope in ((170, 1), (85, -1)):
        lines = Image.new("L", image.size, 255)
        draw = ImageDraw.Draw(lines)
        for start in range(-side, 2 * side, step):
            draw.line((start, 0, start + slope * side, side), fill=0, width=max(1, side // 32))
        lit = gray.point([255 * (tone >= darkest) for tone in range(256)])
        page = ImageChops.darker(page, ImageChops.lighter(lines, lit))
    return ImageOps.colorize(page, "#1a1a40", "#fbf7ea")


def _dream(image: Image.Image, dice: Random) -> Image.Image:
    """Out of focus, in pale pink light."""
    blurred = image.filter(ImageFilter.GaussianBlur(image.width / 20))
    return Image.blend(blurred, Image.new("RGB", image.size, "#ffc4f0"), 0.45)


def _stripes(image: Image.Image, dice: Random) -> Image.Image:
    """Upright bands, printed in green and in violet by turns."""
    gray = ImageOps.grayscale(image)
    bands = Image.new("L", image.size, 0)
    draw = ImageDraw.Draw(bands)
    width = image.width // 8
    for left in range(0, image.width, 2 * width):
        draw.rectangle((left, 0, left + width - 1, image.height), fill=255)
    green = ImageOps.colorize(gray, "#0b4a1e", "#c9f7a5")
    violet = ImageOps.colorize(gray, "#5b1273", "#f7c3ff")
    return Image.composite(green, violet, bands)


def _emboss(image: Image.Image, dice: Random) -> Image.Image:
    """Carved in stone, lit from one corner."""
    slope = ImageFilter.Kernel((3, 3), (-2, -1, 0, -1, 0, 1, 0, 1, 2), scale=2, offset=128)
    # The filter leaves the outermost pixels as they are, so they are cut off.
    wide = ImageOps.grayscale(image).resize((image.width + 2, image.height + 2), Image.Resampling.BICUBIC)
    return ImageOps.colorize(ImageOps.crop(wide.filter(slope), 1), "#14110f", "#f1ece4", mid="#8c857b")


def _duotone(image: Image.Image, dice: Random) -> Image.Image:
    return ImageOps.colorize(ImageOps.grayscale(image), "#0a1f8f", "#7dffcf")


STYLES: dict[str, tuple[Render, tuple[str, ...]]] = {
    "ember": (_ember, ("fiery", "glowing orange", "warm", "smouldering", "burnt")),
    "halftone": (_halftone, ("dotted", "newsprint", "red ink", "screen printed", "rasterised")),
    "negative": (_negative, ("inverted", "film negative", "reversed light", "complementary", "darkroom")),
    "neon": (_neon, ("luminous edges", "electric", "outlined", "night lights", "cyan glow")),
    "mosaic": (_mosaic, ("tiled", "square tiles", "blocky", "golden joints", "antique")),
    "frosted": (_frosted, ("icy", "grainy", "cold", "frozen glass", "pale blue")),
    "poster": (_poster, ("flat colours", "bold", "pop culture", "four colours", "graphic")),
    "hatching": (_hatching, ("ink lines", "diagonal strokes", "engraved", "cross-hatched", "pen drawing")),
    "dream": (_dream, ("soft focus", "blurred", "pastel pink", "hazy", "gentle")),
    "stripes": (_stripes, ("striped", "vertical bands", "green violet", "alternating", "rhythmic")),
    "emboss": (_emboss, ("carved", "raised relief", "stone gray", "sculpted", "chiselled")),
    "duotone": (_duotone, ("two tones", "blue green", "minty", "cool", "deep blue")),
}
