"""Pictures to arrays of bytes, bytes to numbers in [-1, 1], and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

Channels = Literal[1, 3]

IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}

# What Pillow raises on a damaged file (for a PNG also SyntaxError), and `to_bytes` on a mode it cannot keep.
IMAGE_ERRORS = (OSError, ValueError, SyntaxError, EOFError)

_GRAY = {"1", "L", "LA", "La"}
_COLOUR = {"RGB", "RGBA", "RGBa", "RGBX", "P", "PA", "CMYK", "YCbCr", "HSV", "LAB"}


def reason(error: Exception) -> str:
    """Why a picture cannot be read, for an error message."""
    from PIL import UnidentifiedImageError

    # Pillow's own text names a buffer in memory.
    return (
        "no picture in a format that Pillow knows"
        if isinstance(error, UnidentifiedImageError)
        else str(error)
    )


def to_bytes(
    image: Image, size: tuple[int, int] | None = None, channels: Channels | None = None
) -> NDArray[np.uint8]:
    """Decode a picture; transparency is dropped, and a camera's rotation mark is obeyed.

    Args:
        image: An 8-bit picture.
        size: Width and height. Another size is cropped to this shape around its centre and resized with a
            Lanczos filter, which also averages when it shrinks. None keeps the size.
        channels: 1 for gray, 3 for RGB, None for what the picture is.

    Returns:
        ``[channels, height, width]``.

    Raises:
        ValueError: The picture has more than 8 bits per channel.
        OSError: The file is damaged; Pillow also raises the other ``IMAGE_ERRORS``.
    """
    from PIL import ImageOps
    from PIL.Image import Resampling

    if image.mode not in _GRAY | _COLOUR:
        # Pillow would clip 16-bit gray at 255: an almost white picture and no error.
        raise ValueError(f"a picture of mode '{image.mode}', not of 8 bits per channel")
    image = ImageOps.exif_transpose(image)
    image = image.convert({1: "L", 3: "RGB"}[channels or (1 if image.mode in _GRAY else 3)])
    if size is not None and image.size != size:
        # Not ImageOps.fit: its filter reaches beyond the crop.
        scale = min(image.width / size[0], image.height / size[1])
        width, height = round(size[0] * scale), round(size[1] * scale)
        left, top = (image.width - width) // 2, (image.height - height) // 2
        image = image.crop((left, top, left + width, top + height)).resize(size, Resampling.LANCZOS)
    array = np.asarray(image)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


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
