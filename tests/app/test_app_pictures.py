from __future__ import annotations

from io import BytesIO

import pytest
from PIL import EpsImagePlugin, Image

from guda_lightning.app.pictures import conditioned, dropped, whole
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


def test_no_program_is_started_for_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *given, **named: started.append(given))
    file = BytesIO()
    Image.new("L", (8, 8)).save(file, "EPS")
    expected = message(
        "the file is no picture that can be read",
        f"{len(file.getvalue())} bytes in none of these formats",
        "one of PNG, JPEG, WEBP, GIF, BMP, TIFF",
        "convert it to PNG",
    )
    with pytest.raises(QueryError, match=expected):
        dropped(file.getvalue(), (1, 8, 8))
    assert started == []


def test_a_small_file_of_very_many_pixels_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30)  # Pillow's own limit, at twice as many
    file = BytesIO()
    Image.new("L", (8, 8)).save(file, "PNG")
    with pytest.raises(
        QueryError, match=r"^the file is too large\n.*64 pixels.*\n.*at most 50 million pixels"
    ):
        dropped(file.getvalue(), (1, 8, 8))


def test_a_number_from_outside_may_be_of_any_length() -> None:
    assert [whole(text) for text in (" 7", "-1", "", "x", "1" * 5000)] == [7, None, None, None, None]


def test_a_class_is_taken_where_the_model_needs_one() -> None:
    data, query = shades(), gray_queries("x")
    assert conditioned(query, "", data, False) is query
    labels = conditioned(query, " 2", data, True).labels
    assert labels is not None and labels.tolist() == [2]
    for typed, found in (("", "no class"), ("3", "'3'"), ("dark", "'dark'"), ("1" * 5000, repr("1" * 40))):
        expected = message(
            "this model draws under a condition, and scores a picture under one",
            found,
            "a whole number from 0 to 2",
            "type it beside the picture",
        )
        with pytest.raises(QueryError, match=expected):
            conditioned(query, typed, data, True)
