from __future__ import annotations

from io import BytesIO

import pytest
from PIL import Image

from guda_lightning.app.pictures import conditioned, dropped
from guda_lightning.errors import QueryError
from toys import gray_queries, message, shades


def test_a_picture_keeps_its_pixels_where_it_fits_and_is_cropped_where_not() -> None:
    for size, note in (
        ((8, 8), ""),
        ((16, 8), "cropped around its centre and resized from 16 x 8 pixels to 8 x 8"),
    ):
        file = BytesIO()
        Image.linear_gradient("L").resize(size).save(file, "PNG")
        picture = dropped(file.getvalue(), (1, 8, 8))
        assert picture.note == note
        assert picture.query.images.shape == (1, 1, 8, 8)
        assert picture.query.images[0, 0].diff(dim=0).min() > 0  # dark above, bright below


def test_a_class_is_taken_where_the_model_needs_one() -> None:
    data, query = shades(), gray_queries("x")
    assert conditioned(query, "", data, False) is query
    labels = conditioned(query, " 2", data, True).labels
    assert labels is not None and labels.tolist() == [2]
    for typed, found in (("", "no class"), ("3", "'3'"), ("dark", "'dark'")):
        expected = message(
            "this model draws under a condition, and scores a picture under one",
            found,
            "a whole number from 0 to 2",
            "type it beside the picture",
        )
        with pytest.raises(QueryError, match=expected):
            conditioned(query, typed, data, True)
