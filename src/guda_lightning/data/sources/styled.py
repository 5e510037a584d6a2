"""Every image of a source rendered in styles, with prompts: training data for text-to-image at any scale."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import numpy as np
from PIL import Image, ImageOps

from guda_lightning.data.group_names import one_of
from guda_lightning.data.images import decoded
from guda_lightning.data.prompts import PromptTemplate
from guda_lightning.data.sources.source import ImageTable, Source
from guda_lightning.data.sources.styles import STYLES
from guda_lightning.errors import ConfigError, DataError, check_range

DESCRIPTORS_PER_PROMPT = 3  # of the five that a style has; as many as in UnlearnCanvas


@dataclass(frozen=True)
class Styled(Source):
    """The images of a labelled source, each of them in every style.

    The labels are the styles, and the content is the base image's label: one picture, such as ``7/ember``, is
    in the group ``ember``, and its prompt is ``A depiction of 7, artistic style featuring fiery, warm,
    burnt``. Which descriptors it has is drawn for each picture.

    Args:
        base: Where the images come from; with labels.
        styles: How many of the styles, in the order of ``STYLES``, or their names.
        size: Side in pixels; images are cropped to a centred square and resized (bicubic) before they are
            rendered.
        seed: Seed of descriptors, textures and limit.
        limit: Number of base images to draw at random. None: all.
        named: Share of the pictures whose prompt has words for the style, in [0, 1]; that of any other names
            the content alone, and does not tell the group.

    Raises:
        ConfigError: An unknown style, or a number out of range.
    """

    base: Source
    styles: int | list[str] = 12
    size: int = 32
    seed: int = 0
    limit: int | None = None
    named: float = 1.0

    def __post_init__(self) -> None:
        count = self.styles if isinstance(self.styles, int) else len(self.styles)
        check_range("data.source.styles", count, ge=1, le=len(STYLES), fix="correct data.source.styles")
        for name, value, least in (("size", self.size, 16), ("seed", self.seed, 0), ("limit", self.limit, 1)):
            check_range(f"data.source.{name}", value, ge=least, fix=f"correct data.source.{name}")
        check_range("data.source.named", self.named, ge=0, le=1, fix="correct data.source.named")
        for name in () if isinstance(self.styles, int) else self.styles:
            if name not in STYLES:
                raise ConfigError(
                    f"unknown style '{name}'",
                    found=f"'{name}'",
                    expected=one_of(name, list(STYLES), "styles"),
                    fix="correct data.source.styles",
                )

    def load(self) -> ImageTable:
        """List every base image in every style, the styles of one image side by side.

        Raises:
            DataError: The base cannot be read or has no labels.
        """
        table = self.base.load()
        contents = table.labels
        if contents is None:
            raise DataError(
                "the images to be styled have no labels",
                found="a base without labels",
                expected="a label for every image, which its prompt names",
                fix="sort the images into one folder per label, or name a label column",
            )
        names = list(STYLES)[: self.styles] if isinstance(self.styles, int) else self.styles
        styles = tuple(name for name in STYLES if name in names)
        chosen = np.random.default_rng(self.seed).permutation(len(table.ids))[: self.limit]
        samples = [(int(position), style) for position in np.sort(chosen) for style in styles]
        ids = tuple(f"{table.ids[position]}/{style}" for position, style in samples)
        compose = PromptTemplate().compose

        def read(index: int) -> Image.Image:
            position, style = samples[index]
            pixels = decoded(table.ids[position], lambda: table.read(position), channels=3)
            return self._render(Image.fromarray(pixels.transpose(1, 2, 0)), style, ids[index])

        def prompt(index: int) -> str:
            position, style = samples[index]
            words = self._dice("prompt", ids[index]).sample(STYLES[style][1], DESCRIPTORS_PER_PROMPT)
            named = self._dice("named", ids[index]).random() < self.named
            return compose(contents[position], words if named else ())

        return ImageTable(
            ids=ids,
            read=read,
            labels=tuple(style for _, style in samples),
            label_names=styles,
            prompts=tuple(map(prompt, range(len(samples)))),
        )

    def _dice(self, purpose: str, sample_id: str) -> Random:
        return Random(f"{self.seed}/{purpose}/{sample_id}")

    def _render(self, picture: Image.Image, style: str, sample_id: str) -> Image.Image:
        square = ImageOps.fit(picture, (self.size, self.size), Image.Resampling.BICUBIC)
        return STYLES[style][0](square, self._dice("picture", sample_id))
