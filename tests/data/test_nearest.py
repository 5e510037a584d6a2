from __future__ import annotations

import numpy as np
import pytest
import torch

from guda_lightning.data.images import to_unit
from guda_lightning.data.nearest import nearest_samples
from guda_lightning.errors import DataError
from toys import message, shades


def test_finds_what_a_search_through_all_pixels_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guda_lightning.data.nearest._CHUNK", 5)
    data = shades()
    rows = data.grouping.forget(["noisy"])
    queries = torch.rand(3, *data.image_shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    queries[1] = to_unit(data.images[rows[7]])
    found = nearest_samples(data, rows, queries, 4)
    pixels = to_unit(data.images[rows])
    for query, one in zip(queries, found, strict=True):
        distances = (pixels - query).square().mean(dim=(1, 2, 3))
        order = distances.argsort()[:4].tolist()
        assert one.ids == tuple(data.ids[rows[row]] for row in order)
        assert torch.equal(one.images, data.images[rows[order]])
        torch.testing.assert_close(one.distances, distances[order].double(), rtol=1e-4, atol=1e-6)
    assert found[1].ids[0] == data.ids[rows[7]]
    assert found[1].distances[0] < 1e-9


def test_compares_large_pictures_as_small_ones_and_returns_them_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("guda_lightning.data.nearest._SIDE", 4)
    data = shades(per_group=3)
    (found,) = nearest_samples(data, [0, 1, 2], to_unit(data.images[[1]]), 9)
    assert (len(found.ids), found.ids[0], found.images.shape) == (3, "1", (3, 1, 8, 8))
    small = [
        image.float().div(127.5).unfold(1, 2, 2).unfold(2, 2, 2).mean(dim=(3, 4)) for image in data.images[:3]
    ]
    expected = [float((one - small[1]).square().mean()) for one in small]
    np.testing.assert_allclose(found.distances, sorted(expected), rtol=1e-4, atol=1e-9)


def test_refuses_what_cannot_be_compared() -> None:
    expected = message(
        "these queries cannot be compared with training images",
        "0 training images, queries of shape (3, 8, 8)",
        "at least one, and queries of shape (1, 8, 8)",
        "name samples of the data, and take queries as guda attribute reads them",
    )
    with pytest.raises(DataError, match=expected):
        nearest_samples(shades(), [], torch.zeros(1, 3, 8, 8), 1)
