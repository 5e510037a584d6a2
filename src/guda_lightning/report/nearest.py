"""The training images nearest to queries, kept beside a score table so that its page needs no data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from guda_lightning.data.images import to_unit
from guda_lightning.errors import StoreError
from guda_lightning.report.pictures import data_uri
from guda_lightning.storage.sealed import open_tensors, write_tensors

MAX_NEAREST_QUERIES = 250  # that have some: the first ones, as of maps
NEAREST = 3  # images of a query and group
NEAREST_PIXELS = 96  # longest side
_FIX = "remove it; to have them again, remove the score table as well and rerun guda attribute"


@dataclass(frozen=True, eq=False)
class NearestImages:
    """Training images that look most like queries, of the groups that lead them.

    Attributes:
        of: Hash of the record of the scores that say which groups lead.
        names: Names of the images.
        images: ``[images, channels, height, width]`` uint8, small.
        found: Query and group to positions of their images and mean squared differences of pixels, nearest
            first.
    """

    of: str
    names: tuple[str, ...]
    images: Tensor
    found: Mapping[tuple[str, str], Sequence[tuple[int, float]]]

    def save(self, path: Path) -> None:
        """Write one safetensors file, atomically."""
        found = [[*pair, [list(one) for one in images]] for pair, images in self.found.items()]
        write_tensors(path, {"images": self.images}, {"of": self.of, "names": self.names, "found": found})

    @classmethod
    def load(cls, path: Path) -> NearestImages:
        """Read what ``save`` wrote.

        Raises:
            StoreError: The file is missing or damaged.
        """
        tensors, about = open_tensors(path, _FIX)
        try:
            found = {(query, group): [(i, d) for i, d in pairs] for query, group, pairs in about["found"]}
            return cls(about["of"], tuple(about["names"]), tensors["images"], found)
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(
                f"{path} cannot be read",
                found=error,
                expected="nearest training images written by guda-lightning",
                fix=_FIX,
            ) from error

    def to_page(self, queries: Sequence[str], groups: Sequence[str]) -> dict[str, Any]:
        """Names, pictures, and by ``query,group`` (their numbers) which of them, with their distances."""
        row, column = ({name: i for i, name in enumerate(names)} for names in (queries, groups))
        return {
            "names": list(self.names),
            "images": [data_uri(to_unit(image), NEAREST_PIXELS) for image in self.images],
            "found": {
                f"{row[query]},{column[group]}": [[i, float(f"{distance:.3g}")] for i, distance in images]
                for (query, group), images in self.found.items()
                if query in row and group in column
            },
        }
