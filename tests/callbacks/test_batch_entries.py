"""Whatever somebody else's data give for a batch."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Picture
from torch import Tensor

from guda_lightning.callbacks.batch_entries import as_tensor, described, entries, entry, names

X = torch.arange(24.0).reshape(2, 1, 3, 4)
Named = namedtuple("Named", "image label")


class Tagged(Tensor):
    """A tensor that carries more, as MONAI's."""


class Own:
    """A class of the user's own."""

    def __init__(self) -> None:
        self.images, self.note = {"clean": X}, "texts"


@dataclass(slots=True)
class Slots:
    image: Tensor


class Keyed:
    """No Mapping, but keys, as a TensorDict."""

    def keys(self) -> list[str]:
        return ["image"]

    def __getitem__(self, key: str) -> Tensor:
        return {"image": X}[key]


@pytest.mark.parametrize(
    ("batch", "key"),
    [
        ((X, 1), 0),
        ([1, X], -1),
        ((X, 1), "0"),
        ({"pixel_values": X, "input_ids": torch.zeros(2, 7)}, "pixel_values"),
        ({"data": {"image": X}}, "data.image"),
        (({"image": X}, 1), "0.image"),
        ({"image.png": X, "__key__": ["a", "b"]}, "image.png"),
        ({"a": {"image.png": X}}, "a.image.png"),
        ({"a.b": {"c": X}}, "a.b.c"),
        ({0: X}, 0),
        (Named(X, 1), "image"),
        (Named(X, 1), 0),
        (Slots(X), "image"),
        (Own(), "images.clean"),
        (Keyed(), "image"),
        ({"image": X.numpy()}, "image"),
        ({"image": list(X)}, "image"),
        ({"image": X.as_subclass(Tagged)}, "image"),
    ],
)
def test_images_are_found_wherever_they_are(batch: Any, key: str | int) -> None:
    found = as_tensor(entry(batch, key))
    assert type(found) is Tensor
    assert torch.equal(found, X)


@pytest.mark.parametrize("batch", [(X, Own()), {"a": Slots(X), "b": [Keyed()]}, Named(X, {"c": (X, "text")})])
def test_every_entry_is_found_by_the_path_that_messages_name(batch: Any) -> None:
    listed = list(entries(batch))
    assert any(value is X for _, value in listed)
    assert all(entry(batch, path) is value for path, value in listed)


@pytest.mark.parametrize(
    "value",
    [
        [X[0], "a text"],
        [X[0], torch.zeros(1, 1, 1)],
        [X[0], X[1].to_sparse()],
        X.to_sparse(),
        torch.zeros(2, device="meta"),
        ["a", "b"],
        [{"a": 1}],
        [[1], [2, 3]],
        "text",
        None,
        object(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_tensor_is_none(value: Any) -> None:
    assert as_tensor(value) is None
    assert described({"a": value})


@pytest.mark.parametrize("key", ["image", "0.image", 2, "2", "real", "T", "a.b.c", ""])
def test_what_is_not_there_is_not_found(key: str | int) -> None:
    with pytest.raises(LookupError):
        entry((X, {"label": 1}), key)


def test_a_loader_that_is_used_up_gives_none() -> None:
    assert entry({"a": None, "b": X}, "a.image") is None


def test_messages_name_types_and_shapes() -> None:
    assert described({"x": X, "y": {"z": np.zeros(2), "t": ["a", "b"], "n": None}}) == (
        "a dict of x float32 [2, 1, 3, 4], y.z float64 [2], y.t list of 2 str, y.n NoneType"
    )
    assert described(["a", b"b"]) == "a batch: list of 2 bytes or str"
    assert described({"image": [Picture.new("L", (1, 1))]}) == "a dict of image list of 1 Image"
    assert described({str(n): n for n in range(14)}).endswith("11 int and 2 more")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (torch.tensor([4, 7]), ["4", "7"]),
        (torch.tensor([[4], [7]]), ["4", "7"]),
        (np.array([4, 7]), ["4", "7"]),
        (np.array(["a", "b"]), ["a", "b"]),
        ([torch.tensor(4), np.int64(7)], ["4", "7"]),
        (["a", "ä"], ["a", "ä"]),
        ([b"a", b"\xff"], ["a", "\\xff"]),
        ([PurePosixPath("x/a.png"), Path("b.png")], ["x/a.png", "b.png"]),
        ([("x", 1), ("x", 2)], ["x/1", "x/2"]),
        ([None, ""], [None, None]),
        (["a", None], ["a", None]),
        (3, [None, None]),
        (torch.tensor(3), [None, None]),
        (["one"], [None, None]),
    ],
)
def test_names_may_be_of_any_type(given: Any, expected: list[str | None]) -> None:
    assert names({"index": given}, "index", 2) == expected


def test_a_batch_without_names_gives_none() -> None:
    assert names((X, 1), "index", 2) == [None, None]
    assert names([["a"], ["b"]], "index", 2) == [None, None]  # lists have a method of this name
