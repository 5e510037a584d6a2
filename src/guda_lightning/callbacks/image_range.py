"""The values that images of validation batches have, and those that a network takes."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor

from guda_lightning.errors import ConfigError, QueryError

_ROOM = 0.001  # of a range, for rounding: more would take -1 for the black of images up to 255


class ImageRange:
    """Turns images of a stated range into those of [-1, 1], and refuses what cannot be of that range.

    Args:
        bounds: The lowest and the highest value, such as (0, 255); None takes all values as they are.

    Attributes:
        ambiguous: Whether all images that were looked at lie in [0, 1], though the stated range is wider;
            None where there were none, or the range is not wider.

    Raises:
        ConfigError: The bounds are no two rising numbers.
    """

    def __init__(self, bounds: tuple[float, float] | None) -> None:
        if bounds is not None and not (len(bounds) == 2 and bounds[0] < bounds[1]):
            raise ConfigError(
                "image_range is no range",
                found=bounds,
                expected="the lowest and the highest value of an image",
                fix="pass image_range=(-1, 1), (0, 1) or (0, 255); image_range=None takes values as they are",
            )
        self._bounds = bounds
        self.start()

    def start(self) -> None:
        """Forget the images of the last validation."""
        self.ambiguous: bool | None = None

    def look(self, images: Tensor) -> None:
        """Notice whether images are beyond [0, 1]."""
        wider = self._bounds is not None and (self._bounds[0] < 0 or self._bounds[1] > 1)
        if wider and self.ambiguous is not False:
            values = images.float()  # torch compares no uint16
            self.ambiguous = not bool(((values < 0) | (values > 1)).any())

    def to_unit(self, images: Tensor, where: str) -> Tensor:
        """Images as the network takes them, float32 on the CPU.

        Args:
            images: ``[batch, channels, height, width]`` of any type.
            where: What they are, for messages.

        Raises:
            QueryError: A value is not finite, or not of the stated range.
        """
        values = images.cpu().float()
        if wrong := int((~values.isfinite()).sum()):
            raise QueryError(
                f"{where} hold values that are no numbers",
                found=f"{wrong} of {values.numel()} values are NaN or infinite",
                expected="finite values",
                fix="look for a division by zero in the transforms of the validation data",
            )
        whole = not images.is_floating_point()
        if (self._bounds is None and not whole) or not values.numel():
            return values
        kind = str(images.dtype).removeprefix("torch.")
        low, high = self._bounds or (-1, 1)
        least, most, room = float(values.min()), float(values.max()), _ROOM * (high - low)
        if least < low - room or most > high + room or (whole and low < 0):
            raise QueryError(
                f"{where} are not in the stated image_range",
                found=f"{kind} values from {least:g} to {most:g}",
                expected=f"values from {low:g} to {high:g}",
                fix=_fix(least, most, kind),
            )
        return values if (low, high) == (-1, 1) else (values - low) / ((high - low) / 2) - 1

    def refuse_ambiguous(self, where: str, ambiguous: Collection[bool | None]) -> None:
        """Refuse images that all lie in [0, 1] where a wider range is stated: hardly by chance.

        Args:
            where: What they are, for messages.
            ambiguous: What all processes have found.

        Raises:
            QueryError: They do.
        """
        if self._bounds is not None and True in ambiguous and False not in ambiguous:
            low, high = self._bounds
            raise QueryError(
                f"{where} look like images in [0, 1]",
                found="no value below 0 or above 1 in the whole validation",
                expected=f"values from {low:g} to {high:g}, as image_range says",
                fix="pass image_range=(0, 1); if they are right, image_range=None takes them as they are",
            )


def _fix(least: float, most: float, kind: str) -> str:
    """What to write where values of a type are from least to most."""
    whole = "int" in kind
    for high in (255, 65535):
        if least >= 0 and (whole or most > 1.5) and most <= high:
            return f"pass image_range=(0, {high}), which scales them to [-1, 1]"
    if least >= 0 and most <= 1:
        return "pass image_range=(0, 1), which scales them to [-1, 1]"
    if least >= -1 and most <= 1:
        return "pass image_range=(-1, 1), or leave it out"
    if least >= -1.5 and most <= 1.5:
        return "clip what goes beyond, as resizing does, in the validation data: images.clamp(-1, 1)"
    return "scale images to [-1, 1] in the validation data; image_range=None takes latents as they are"
