"""Maps of a query's groups: what their pictures hold, and what is said of them."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from guda_lightning.errors import ConfigError, NumericsError
from guda_lightning.report.map_pictures import COLOURS, MAX_LED, MAX_MAPS, MAX_SIDE, maps_of
from guda_lightning.scores.maps import GroupMaps
from toys import message


def one(shares: Tensor, groups: list[str] | None = None) -> dict[str, Any]:
    """The map of a query from ``[groups, height, width]``."""
    names = tuple(f"g{number}" for number in range(len(shares)))
    found = maps_of(GroupMaps(("q",), names, shares[None], ""), ["q"], groups or list(names))[0]
    assert found is not None
    return found


def pixels(found: dict[str, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """``[height, width, 4]``, as a browser shows it."""
    data = base64.b64decode(found["image"].removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))


def test_a_pixel_has_the_colour_of_its_leading_group_as_opaque_as_its_share() -> None:
    shares = torch.zeros(3, 4, 6)
    shares[0] = 0.2
    shares[1, :, :2] = 0.5
    shares[2, 3, 5] = 1.0
    found = one(shares)
    image = pixels(found)
    colours = [tuple(bytes.fromhex(colour)) for colour in COLOURS]
    assert image.shape == (4, 6, 4)
    assert tuple(image[0, 0, :3]) == colours[1]
    assert tuple(image[0, 4, :3]) == colours[0]
    assert tuple(image[3, 5]) == (*colours[2], 255)
    assert image[0, 0, 3] / 255 == pytest.approx(0.5, abs=1 / 16)
    assert image[0, 4, 3] / 255 == pytest.approx(0.25, abs=1 / 16)
    assert found["led"] == [
        [0, f"#{COLOURS[0]}", round(15 / 24, 4), "right"],
        [1, f"#{COLOURS[1]}", round(8 / 24, 4), "left"],
        [2, f"#{COLOURS[2]}", round(1 / 24, 4), "bottom right"],
    ]


def test_groups_keep_their_colours_while_there_are_enough_of_them() -> None:
    shares = torch.rand(10, 8, 8)
    assert {entry[1] for entry in one(shares)["led"]} <= {f"#{colour}" for colour in COLOURS}
    assert all(entry[1] == f"#{COLOURS[entry[0]]}" for entry in one(shares)["led"])
    many = one(torch.rand(64, 8, 8))
    assert [entry[1] for entry in many["led"]] == [f"#{colour}" for colour in COLOURS[:MAX_LED]]
    assert len(many["led"]) == MAX_LED and many["more"] > 0


def test_maps_are_bounded_in_size_and_number() -> None:
    shares = torch.zeros(2, 2 * MAX_SIDE, MAX_SIDE)
    shares[1, MAX_SIDE:] = 1
    assert pixels(one(shares)).shape == (MAX_SIDE, MAX_SIDE // 2, 4)
    names = tuple(f"q{number}" for number in range(MAX_MAPS + 1))
    maps = GroupMaps(names, ("a",), torch.ones(len(names), 1, 1, 1), "")
    found = maps_of(maps, [*names[::-1]], ["a"])
    assert [one is None for one in found] == [False] * MAX_MAPS + [True]
    noise = one(torch.rand(10, MAX_SIDE, MAX_SIDE))  # the worst to compress
    assert len(noise["image"]) < 8000


def test_maps_of_other_groups_and_queries_are_left_out() -> None:
    maps = GroupMaps(("q",), ("a", "b"), torch.tensor([0.9, 0.1]).view(1, 2, 1, 1), "")
    found = maps_of(maps, ["other", "q"], ["c", "b"])
    assert found[0] is None and found[1] is not None
    assert found[1]["led"] == [[1, f"#{COLOURS[1]}", 1.0, "middle"]]
    assert maps_of(maps, ["q"], ["c"]) == [None]


def test_maps_that_do_not_fit_their_names_are_refused() -> None:
    expected = message(
        "the maps do not fit the names of queries and groups",
        "shape (1, 2, 4, 4)",
        "1 queries, 3 groups, height, width",
        "give one map for each query and group",
    )
    with pytest.raises(ConfigError, match=expected):
        GroupMaps(("q",), ("a", "b", "c"), torch.zeros(1, 2, 4, 4), "")


@pytest.mark.parametrize(("bad", "found"), [(torch.nan, "nan to nan"), (1.5, "0 to 1.5")])
def test_what_is_no_share_is_refused(bad: float, found: str) -> None:
    shares = torch.zeros(1, 1, 2, 2)
    shares[0, 0, 1, 1] = bad
    expected = message(
        "a map holds what is no share",
        f"values from {found}",
        "shares in [0, 1]",
        "look for NaN in the queries",
    )
    with pytest.raises(NumericsError, match=expected):
        GroupMaps(("q",), ("a",), shares, "")
