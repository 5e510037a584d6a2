"""What a model sees of a picture, by the mode that it is stored in."""

from __future__ import annotations

import struct
import warnings
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from guda_lightning import notes
from guda_lightning.data import ImageFolder, QueryFolder, Styled, load_queries
from guda_lightning.errors import DataError, QueryError

COMPLETE = "complete pictures of 8 bits per channel"
REPAIR = "repair, convert or remove them"
WHITE = 255


@pytest.fixture(autouse=True)
def _as_in_a_new_command() -> None:
    notes.begin()


def seen(path: Path) -> NDArray[np.uint8]:
    """``[height, width, channels]``, the same as training data and as a query."""
    table = ImageFolder(str(path.parent)).load()
    pixels = table.pixels([table.ids.index(path.name)])[0]
    query = load_queries(path, (3, *pixels.shape[1:])).images[0]  # gray fits colour
    assert ((query + 1) * 127.5).round().tolist() == pixels.expand(3, -1, -1).tolist()
    return pixels.permute(1, 2, 0).numpy()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, colour: int, row: bytes, bits: int = 8, *others: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    data = zlib.compress(b"\0" + row)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (chunk(b"IHDR", header), *others, chunk(b"IDAT", data), chunk(b"IEND", b""))
    )


def palette(*colours: tuple[int, int, int]) -> bytes:
    return chunk(b"PLTE", bytes(sum(colours, ())))


# Two pixels each: what the file says, and what is seen.
CASES: dict[str, tuple[bytes, list[list[int]]]] = {
    "gray": (png(2, 1, 0, bytes([7, 200])), [[7], [200]]),
    "1 bit": (png(2, 1, 0, b"\x40", 1), [[0], [255]]),
    "2 bits": (png(2, 1, 0, b"\x60", 2), [[85], [170]]),
    "gray with a transparent one": (png(2, 1, 0, bytes([7, 9]), 8, chunk(b"tRNS", b"\0\7")), [[WHITE], [9]]),
    "gray with alpha": (png(2, 1, 4, bytes([100, 0, 50, 51])), [[WHITE], [214]]),  # (50 + 4 * 255) / 5
    "gray with alpha of 16 bits": (  # which Pillow hands out as colour
        png(2, 1, 4, bytes([9, 1, 255, 255, 8, 1, 0, 0]), 16), [[9] * 3, [WHITE] * 3]
    ),
    "colour": (png(2, 1, 2, bytes([1, 2, 3, 4, 5, 6])), [[1, 2, 3], [4, 5, 6]]),
    "colour that is gray": (png(2, 1, 2, bytes([1, 1, 1, 4, 4, 4])), [[1, 1, 1], [4, 4, 4]]),
    "colour of 16 bits": (png(1, 1, 2, bytes([1, 99, 2, 99, 3, 99]), 16), [[1, 2, 3]]),
    "colour with a transparent one": (
        png(2, 1, 2, bytes([1, 2, 3, 4, 5, 6]), 8, chunk(b"tRNS", bytes([0, 1, 0, 2, 0, 3]))),
        [[WHITE] * 3, [4, 5, 6]],
    ),
    "colour with alpha": (
        png(2, 1, 6, bytes([0, 100, 255, 51, 1, 2, 3, 255])), [[204, 224, 255], [1, 2, 3]]
    ),
    "gray in colour with alpha": (png(1, 1, 6, bytes([50, 50, 50, 51])), [[214, 214, 214]]),
    "palette": (png(2, 1, 3, bytes([1, 0]), 8, palette((9, 8, 7), (1, 2, 3))), [[1, 2, 3], [9, 8, 7]]),
    "gray palette": (png(2, 1, 3, bytes([1, 0]), 8, palette((9, 9, 9), (3, 3, 3), (1, 2, 3))), [[3], [9]]),
    "palette of 1 bit": (png(2, 1, 3, b"\x40", 1, palette((0, 0, 0), (255, 255, 255))), [[0], [255]]),
    "palette with alpha": (
        png(2, 1, 3, bytes([0, 1]), 8, palette((0, 100, 255), (1, 2, 3)), chunk(b"tRNS", b"\x33")),
        [[204, 224, 255], [1, 2, 3]],
    ),
    "gray palette with a transparent colour": (
        png(2, 1, 3, bytes([0, 1]), 8, palette((255, 0, 255), (6, 6, 6)), chunk(b"tRNS", b"\0")),
        [[WHITE], [6]],
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", CASES)
def test_what_is_seen_of_a_png(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    data, expected = CASES[kind]
    (tmp_path / "1.png").write_bytes(data)
    assert seen(tmp_path / "1.png").tolist() == [expected]
    told = capsys.readouterr().out
    blended = "alpha" in kind or "transparent" in kind
    assert told == ("images: transparency is blended onto white, as in 1.png\n" if blended else "")


def test_opaque_alpha_is_not_worth_a_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "1.png").write_bytes(png(1, 1, 6, bytes([1, 2, 3, 255])))
    (tmp_path / "2.png").write_bytes(png(1, 1, 4, bytes([9, 255])))
    assert seen(tmp_path / "1.png").tolist() == [[[1, 2, 3]]]
    assert seen(tmp_path / "2.png").tolist() == [[[9]]]
    assert capsys.readouterr().out == ""


SAVED: dict[str, tuple[str, Image.Image, list[int]]] = {
    "cmyk": ("1.tif", Image.new("CMYK", (2, 1), (0, 255, 255, 0)), [255, 0, 0]),
    "gif": ("1.gif", Image.new("RGB", (2, 1), (10, 20, 30)), [10, 20, 30]),
    "gray gif": ("1.gif", Image.new("L", (2, 1), 40), [40]),
    "bits": ("1.pbm", Image.new("1", (2, 1), 1), [255]),
    "gray tiff": ("1.tif", Image.new("L", (2, 1), 40), [40]),
    "gray tiff with alpha": ("1.tif", Image.new("LA", (2, 1), (50, 51)), [214]),
    "tga with alpha": ("1.tga", Image.new("RGBA", (2, 1), (0, 100, 255, 51)), [204, 224, 255]),
    "webp with alpha": ("1.webp", Image.new("RGBA", (2, 1), (9, 9, 9, 0)), [WHITE] * 3),
}


@pytest.mark.parametrize("kind", SAVED)
def test_what_is_seen_of_other_formats(tmp_path: Path, kind: str) -> None:
    name, image, expected = SAVED[kind]
    image.save(tmp_path / name, **({"lossless": True} if name.endswith("webp") else {}))
    assert seen(tmp_path / name).tolist() == [[expected, expected]]


def test_colour_turned_to_gray_is_blended_first(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(CASES["colour with alpha"][0])
    luma = np.array([[204, 224, 255], [1, 2, 3]]) @ [0.299, 0.587, 0.114]  # ITU-R 601
    assert np.abs(ImageFolder(str(tmp_path)).load().pixels(channels=1)[0, 0, 0].numpy() - luma).max() <= 1


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [(3, [[4, 3], [2, 1]]), (6, [[3, 1], [4, 2]]), (7, [[4, 2], [3, 1]]), (8, [[2, 4], [1, 3]])],
)
def test_a_rotation_mark_is_obeyed(tmp_path: Path, orientation: int, expected: list[list[int]]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    gray = Image.fromarray(np.array([[1, 2], [3, 4]], dtype=np.uint8))
    gray.save(tmp_path / "1.png", exif=exif)
    assert seen(tmp_path / "1.png")[..., 0].tolist() == expected


@pytest.mark.parametrize("name", ["1.gif", "1.tif", "1.png", "1.webp"])
def test_the_first_of_several_frames_is_taken_and_told(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = [Image.new("RGB", (2, 1), colour) for colour in ("red", "lime", "blue")]
    extra = {"lossless": True} if name.endswith("webp") else {}
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **extra)
    assert seen(tmp_path / name).tolist() == [[[255, 0, 0]] * 2]
    assert capsys.readouterr().out == f"images: of several frames or pages the first is taken, as of {name}\n"


def test_the_second_picture_of_a_camera_is_no_frame(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = [Image.new("L", (8, 8), level) for level in (80, 200)]
    frames[0].save(tmp_path / "1.JPG", "MPO", save_all=True, append_images=frames[1:])
    assert seen(tmp_path / "1.JPG").mean().round() == 80
    assert capsys.readouterr().out == ""


def test_transparency_of_a_styled_picture_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats/1.png").write_bytes(CASES["colour with alpha"][0])
    Styled(ImageFolder(str(tmp_path)), styles=2, size=16).load().pixels()
    assert capsys.readouterr().out == "images: transparency is blended onto white, as in cats/1.png\n"


def too_large(side: int) -> bytes:
    return png(side, side, 0, bytes(9))


UNREADABLE: dict[str, tuple[bytes, str]] = {
    "too large": (too_large(30_000), "Image size (900000000 pixels) exceeds limit of 178956970 pixels"),
    "as large as a warning": (too_large(10_000), "image file is truncated (0 bytes not processed)"),
    "empty": (b"", "an empty file"),
    "a page": (b"<!DOCTYPE html><title>404</title>", "no picture in a format that Pillow knows"),
    "a pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "a pointer of Git LFS in place of the picture: run `git lfs pull`",
    ),
    "16 bits": (png(1, 1, 0, b"\x9c\x40", 16), "a picture of mode 'I;16', not 8-bit gray or colour"),
    "a damaged header": (
        CASES["colour"][0][:8] + chunk(b"IHDR", b"\0\0\0\2\0\0\0\1\x08"),
        "Truncated IHDR chunk",
    ),
    "a chunk after its end": (
        CASES["colour"][0][:-12] + chunk(b"IHDR", b"\1") + CASES["colour"][0][-12:],
        "Truncated IHDR chunk",
    ),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_cannot_be_read_is_refused_with_its_reason(tmp_path: Path, message, kind: str) -> None:
    data, reason = UNREADABLE[kind]
    (tmp_path / "1.png").write_bytes(data)
    with pytest.raises(
        DataError, match=message("the image '1.png' cannot be read", reason, COMPLETE, REPAIR)
    ):
        ImageFolder(str(tmp_path)).load().pixels()
    problem = f"the query {tmp_path}/1.png cannot be read"
    with pytest.raises(QueryError, match=message(problem, reason, COMPLETE, REPAIR)):
        load_queries(tmp_path / "1.png", (3, 6, 6), resize=True)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_numbers_of_32_bits_are_refused(tmp_path: Path, message, mode: str) -> None:
    Image.new(mode, (2, 2), 3).save(tmp_path / "1.tif")
    reason = f"a picture of mode '{mode}', not 8-bit gray or colour"
    with pytest.raises(
        DataError, match=message("the image '1.tif' cannot be read", reason, COMPLETE, REPAIR)
    ):
        ImageFolder(str(tmp_path)).load().pixels()


def test_an_image_that_is_gone_is_named_with_its_path(tmp_path: Path, write_image, message) -> None:
    write_image(tmp_path / "1.png")
    table = ImageFolder(str(tmp_path)).load()
    (tmp_path / "1.png").unlink()
    reason = f"No such file or directory: {tmp_path}/1.png"
    with pytest.raises(
        DataError, match=message("the image '1.png' cannot be read", reason, COMPLETE, REPAIR)
    ):
        table.pixels()


def test_unreadable_images_are_reported_together(tmp_path: Path, write_image, message) -> None:
    write_image(tmp_path / "00.png")
    for number in range(1, 13):
        (tmp_path / f"{number:02}.png").write_bytes(b"")
    lines = [f"'{number:02}.png': an empty file" for number in range(1, 11)]
    found = "\n            ".join([*lines, "and 2 more"])
    table = ImageFolder(str(tmp_path)).load()
    assert table.pixels([0]).shape == (1, 3, 6, 6)
    for rows, rest in ((None, ()), ([0, 1], range(2, 13))):
        with pytest.raises(DataError, match=message("12 images cannot be read", found, COMPLETE, REPAIR)):
            table.pixels(rows, rest=rest)
    problem = f"12 queries of {tmp_path} cannot be read"
    with pytest.raises(QueryError, match=message(problem, found, COMPLETE, REPAIR)):
        QueryFolder(tmp_path, (3, 6, 6)).load([0, 1])  # of all, whichever are read first


def test_an_unreadable_image_is_named_once_under_all_its_styles(tmp_path: Path, message) -> None:
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats/1.png").write_bytes(b"")
    problem = "the image 'cats/1.png' cannot be read"
    with pytest.raises(DataError, match=message(problem, "an empty file", COMPLETE, REPAIR)):
        Styled(ImageFolder(str(tmp_path)), styles=3).load().pixels()


FORMATS = ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "ICO", "TGA", "PPM", "JPEG2000", "DDS", "AVIF")


@pytest.mark.parametrize("kind", FORMATS)
def test_damage_ends_in_a_picture_or_in_its_name(tmp_path: Path, kind: str) -> None:
    buffer = BytesIO()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(buffer, kind)
    whole = buffer.getvalue()
    path = tmp_path / f"1.{kind.lower()}"
    for _ in range(30):
        data = bytearray(whole)
        for position in rng.integers(0, min(len(data), 120), rng.integers(1, 6)):
            data[position] = rng.integers(0, 256)
        path.write_bytes(data[: rng.integers(1, len(data)) if rng.random() < 0.3 else None])
        with warnings.catch_warnings(record=True) as told:
            try:
                load_queries(path, (3, 16, 16), resize=True)
            except QueryError as error:
                assert error.problem == f"the query {path} cannot be read"
        assert told == []
