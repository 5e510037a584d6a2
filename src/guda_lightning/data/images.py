"""Pictures to arrays of bytes, bytes to numbers in [-1, 1], and back."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from guda_lightning.data.image_files import reasons
from guda_lightning.errors import DataError, GudaError
from guda_lightning.notes import tell_once
from guda_lightning.progress_bar import progress_bar
from guda_lightning.storage.files import read_regular

Channels = Literal[1, 3]

BACKGROUND = "white"  # what most viewers show behind transparency

_GRAY = {"1", "L", "LA", "La"}
_COLOUR = {"RGB", "RGBA", "RGBa", "RGBX", "P", "PA", "CMYK", "YCbCr", "HSV"}
_PALETTE = {"P", "PA"}
_WHOLE = {"MPO", "PSD"}  # several pictures in a file, of which the first is what viewers show
_POINTER = b"version https://git-lfs"


class UnreadableImage(ValueError):
    """A picture that cannot be decoded.

    Args:
        name: Which.
        reason: Why, for an error message.
    """

    def __init__(self, name: str, reason: str) -> None:
        self.name, self.reason = name, reason
        super().__init__(f"{name}: {reason}")


def read_image(path: str | Path) -> Image.Image:
    """Open the picture in a file, which is read whole: given its path, Pillow would leave a damaged one open.

    Raises:
        ValueError: It holds no picture; Pillow raises other errors, too.
    """
    data = read_regular(path)
    if not data:
        raise ValueError("an empty file")
    if data.startswith(_POINTER):
        raise ValueError("a pointer of Git LFS in place of the picture: run `git lfs pull`")
    return Image.open(BytesIO(data))


def decoded(
    name: str,
    read: Callable[[], Image.Image],
    size: tuple[int, int] | None = None,
    channels: Channels | None = None,
    *,
    enlarge: bool = True,
) -> NDArray[np.uint8]:
    """Open and decode a picture as docs/data.md says; what is done to it besides is told once a command.

    Args:
        name: What to call it.
        read: Opens it.
        size: Width and height. Another size is cropped to this shape around its centre and resized with a
            Lanczos filter, which also averages when it shrinks. None keeps the size.
        channels: 1 for gray, 3 for RGB, None for what the picture is: gray if its format says so, or if all
            colours of its palette that it uses are gray.
        enlarge: Whether it may be smaller than ``size``.

    Returns:
        ``[channels, height, width]``.

    Raises:
        UnreadableImage: It is damaged, larger than Pillow's limit, or of more than 8 bits per channel.
        DataError: It is too small.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about metadata, or a size close to the limit
            return _to_bytes(name, read(), size, channels, enlarge)
    except (UnreadableImage, GudaError):
        raise
    except Exception as error:  # Pillow raises nearly anything on a damaged file
        raise UnreadableImage(name, _reason(error)) from error


def unreadable(
    error: type[GudaError],
    first: UnreadableImage,
    decode: Callable[[int], object],
    rows: Sequence[int],
    one: str,
    several: str,
) -> GudaError:
    """What is wrong with all pictures that cannot be decoded.

    Args:
        error: The kind of the error.
        first: The one that was found first.
        decode: Decodes the picture of a row; raises ``UnreadableImage``.
        rows: The rows to try.
        one: What to call the first one where it is the only one.
        several: What to call more of them.
    """
    unfit = {first.name: first.reason}
    with progress_bar("check images", "images", len(rows), delay=2) as bar:
        for row in rows:
            try:
                decode(row)
            except UnreadableImage as another:
                unfit[another.name] = another.reason
            bar.update()
    alone = len(unfit) == 1
    return error(
        f"{one if alone else f'{len(unfit)} {several}'} cannot be read",
        found=first.reason if alone else reasons(unfit),
        expected="complete pictures of 8 bits per channel",
        fix="repair, convert or remove them",
    )


def _to_bytes(
    name: str,
    image: Image.Image,
    size: tuple[int, int] | None,
    channels: Channels | None,
    enlarge: bool,
) -> NDArray[np.uint8]:
    mode = image.mode
    if mode not in _GRAY | _COLOUR:
        # Pillow would clip 16-bit gray at 255: an almost white picture and no error.
        raise ValueError(f"a picture of mode '{mode}', not 8-bit gray or colour")
    if getattr(image, "is_animated", False) and image.format not in _WHOLE:
        tell_once(f"images: of several frames or pages the first is taken, as of {name}", "frames")
    image = _opaque(name, ImageOps.exif_transpose(image))
    gray = mode in _GRAY or (mode in _PALETTE and _uses_grays(image))
    image = image.convert({1: "L", 3: "RGB"}[channels or (1 if gray else 3)])
    if size is not None and image.size != size:
        # Not ImageOps.fit: its filter reaches beyond the crop.
        scale = min(image.width / size[0], image.height / size[1])
        if not enlarge:
            _refuse_small(name, image.size, size, scale)
        width, height = round(size[0] * scale), round(size[1] * scale)
        left, top = (image.width - width) // 2, (image.height - height) // 2
        image = image.crop((left, top, left + width, top + height)).resize(size, Image.Resampling.LANCZOS)
    array = np.asarray(image)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def _refuse_small(name: str, found: tuple[int, int], size: tuple[int, int], scale: float) -> None:
    """Refuse a picture that would have to be enlarged, and tell that others are not taken as they are."""
    takes = f"{size[0]} x {size[1]} pixels, the sample_size of the network"
    if scale < 1:
        raise DataError(
            f"the image '{name}' is smaller than the network takes",
            found=f"{found[0]} x {found[1]} pixels",
            expected=takes,
            fix="build the network with a smaller sample_size, or set data.image_size, which enlarges it",
        )
    tell_once(f"data: images are cropped and resized to {takes}, as {name}", "sample_size")


def _opaque(name: str, image: Image.Image) -> Image.Image:
    """The picture on the background, where a pixel lets it through."""
    if not image.has_transparency_data:
        return image
    layer = image.convert("LA" if image.mode == "La" else "RGBA")
    alpha = layer.getchannel("A")
    if alpha.getextrema()[0] == 255:
        return image
    tell_once(f"images: transparency is blended onto {BACKGROUND}, as in {name}", "transparency")
    page = Image.new("RGB", image.size, BACKGROUND)
    page.paste(layer.convert("RGB"), mask=alpha)
    return page


def _uses_grays(image: Image.Image) -> bool:
    red, green, blue = (np.asarray(band) for band in image.convert("RGB").split())
    return bool((red == green).all() and (green == blue).all())


def to_unit(pixels: Tensor) -> Tensor:
    """Turn bytes into float32 numbers in [-1, 1], any shape."""
    return pixels.float() / 127.5 - 1


def as_input(samples: Tensor) -> Tensor:
    """Turn bytes into numbers in [-1, 1]; latents, which are numbers already, stay as they are."""
    return to_unit(samples) if samples.dtype == torch.uint8 else samples


def from_unit(images: Tensor) -> Tensor:
    """Turn numbers in [-1, 1] into the nearest bytes, any shape, on the CPU; numbers outside are clipped."""
    # NumPy, because torch's threads cost more than such small arrays: on a busy machine, a thousand times.
    values = images.detach().float().cpu().numpy()
    return torch.from_numpy(((values.clip(-1, 1) + 1) * 127.5).round().astype(np.uint8))


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):  # whose own text names a buffer in memory
        return "no picture in a format that Pillow knows"
    if isinstance(error, Image.DecompressionBombError):
        return str(error).partition(",")[0]  # both numbers of pixels; the rest speaks of an attack
    if isinstance(error, OSError) and error.strerror:  # without its number
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    if isinstance(error, OSError | ValueError | SyntaxError) and str(error):
        return str(error)
    return f"{type(error).__name__}: {error}".removesuffix(": ")
