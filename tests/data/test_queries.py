from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from guda_lightning.data import QueryFolder, QueryHash, load_queries, query_hash, save_queries
from guda_lightning.errors import QueryError
from guda_lightning.types import Queries, content_keys

EXAMPLE = '{"file_name": "1.png", "label": 3}'


def some(count: int = 3, channels: int = 3, labels: bool = True) -> Queries:
    images = torch.rand((count, channels, 4, 5), generator=torch.Generator().manual_seed(0)) * 2 - 1
    ids = tuple(f"cats/{count - number}" for number in range(count))  # not in alphabetical order
    return Queries(ids, images, torch.arange(count) if labels else None)


@pytest.mark.parametrize(("channels", "labels"), [(1, True), (3, False)])
def test_saved_queries_come_back_in_order(tmp_path: Path, channels: int, labels: bool) -> None:
    queries = some(channels=channels, labels=labels)
    save_queries(tmp_path / "q", queries, {"seed": 7})
    loaded = load_queries(tmp_path / "q", (channels, 4, 5))
    assert loaded.ids == queries.ids
    assert (loaded.images - queries.images).abs().max() <= 1 / 255 + 1e-6
    assert loaded.images.dtype == torch.float32
    assert (loaded.labels is None) != labels
    if loaded.labels is not None:
        assert torch.equal(loaded.labels, torch.arange(3))
    record = json.loads((tmp_path / "q/record.json").read_text())
    del record["seal"]
    assert record == {"seed": 7, "complete": True, "query_hash": query_hash(loaded)}
    again = tmp_path / "again"
    save_queries(again, loaded, {})
    assert query_hash(load_queries(again, (channels, 4, 5))) == query_hash(loaded)


def test_values_outside_the_range_are_clipped(tmp_path: Path) -> None:
    images = torch.tensor([-3.0, -1.0, 1.0, 3.0]).reshape(1, 1, 2, 2)
    save_queries(tmp_path / "q", Queries(("a",), images), {})
    assert load_queries(tmp_path / "q", (1, 2, 2)).images.flatten().tolist() == [-1, -1, 1, 1]


def test_the_hash_sees_ids_pixels_labels_and_shape() -> None:
    queries = some()
    changed = queries.images.clone()
    changed[0, 0, 0, 0] += 1e-6
    hashes = {
        query_hash(other)
        for other in (
            queries,
            Queries(queries.ids[::-1], queries.images, queries.labels),
            Queries(queries.ids, changed, queries.labels),
            Queries(queries.ids, queries.images, None),
            Queries(queries.ids, queries.images.transpose(2, 3).reshape(3, 3, 5, 4), queries.labels),
        )
    }
    assert len(hashes) == 5
    assert query_hash(Queries(queries.ids, queries.images.clone(), queries.labels)) in hashes


def test_one_file_is_one_query(tmp_path: Path, write_image) -> None:
    pixels = write_image(tmp_path / "my cat.v2.png", size=(5, 4))
    queries = load_queries(tmp_path / "my cat.v2.png", (3, 4, 5))
    assert queries.ids == ("my cat.v2",)
    assert queries.labels is None
    assert ((queries.images[0].permute(1, 2, 0).numpy() + 1) * 127.5).round().astype(
        int
    ).tolist() == pixels.tolist()


def test_a_folder_is_sorted_and_gray_fits_colour(tmp_path: Path, write_image) -> None:
    write_image(tmp_path / "b.png", mode="RGB")
    gray = write_image(tmp_path / "a/c.PNG", mode="L")
    (tmp_path / "notes.txt").touch()
    queries = load_queries(tmp_path, (3, 6, 6))
    assert queries.ids == ("a/c", "b")
    assert (((queries.images[0].numpy() + 1) * 127.5).round() == gray).all()


def test_other_shapes_are_refused_unless_resized(tmp_path: Path, write_image, message) -> None:
    pixels = write_image(tmp_path / "a.png", size=(12, 8))
    pattern = message(
        f"the query {tmp_path / 'a.png'} does not fit the model",
        "12 x 8 pixels, 3 channels",
        "4 x 4 pixels, 1 channel",
        "resize and convert it, or pass --resize true",
    )
    with pytest.raises(QueryError, match=pattern):
        load_queries(tmp_path, (1, 4, 4))
    resized = load_queries(tmp_path, (1, 4, 4), resize=True).images
    reference = Image.fromarray(pixels[:, 2:10]).convert("L").resize((4, 4), Image.Resampling.LANCZOS)
    assert (((resized[0, 0].numpy() + 1) * 127.5).round() == np.asarray(reference)).all()


def test_missing_or_damaged_queries_are_explained(tmp_path: Path, write_image, message) -> None:
    nowhere = tmp_path / "nowhere"
    pattern = message(
        "there are no queries",
        f"nothing at {nowhere}",
        "an image file or a folder of images",
        "correct the path",
    )
    with pytest.raises(QueryError, match=pattern):
        load_queries(nowhere, (3, 6, 6))
    pattern = message(
        f"the folder {tmp_path} has no images",
        "no file",
        "at least one image",
        "correct the path, or convert the images",
    )
    with pytest.raises(QueryError, match=pattern):
        load_queries(tmp_path, (3, 6, 6))
    write_image(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    for damaged in (b"hello", whole[: len(whole) // 2]):
        (tmp_path / "a.png").write_bytes(damaged)
        with pytest.raises(QueryError, match=rf"^the query {tmp_path / 'a.png'} cannot be read\n  found: "):
            load_queries(tmp_path, (3, 6, 6))


def test_two_files_of_one_id_are_refused(tmp_path: Path, write_image, message) -> None:
    write_image(tmp_path / "a.png")
    write_image(tmp_path / "a.jpg")
    pattern = message(
        "two queries have the id 'a'",
        "the files 'a.jpg' and 'a.png'",
        "names that differ without their suffixes",
        "rename or remove one of them",
    )
    with pytest.raises(QueryError, match=pattern):
        load_queries(tmp_path, (3, 6, 6))


@pytest.mark.parametrize(
    ("lines", "found", "expected"),
    [
        (['{"label": 1}'], "line 1: the columns 'label'", "a 'file_name' on every line"),
        (['{"file_name": "a.png", "label": ' + "9" * 30 + "}"], "line 1: label " + "9" * 30,
         "the class index as a whole number"),
        (['{"file_name": "a.png", "label": "cat"}'], "line 1: label 'cat'",
         "the class index as a whole number"),
        (['{"file_name": "a.png"}'], "1 lines for 2 images, unmatched: 'b.png'",
         "one line per image of the folder"),
        (['{"file_name": "a.png"}', '{"file_name": "a.png"}'], "2 lines for 2 images, unmatched: 'b.png'",
         "one line per image of the folder"),
        (['{"file_name": "a.png", "label": 1}', '{"file_name": "b.png"}'], "1 labels for 2 images",
         "a label on every line, or on none"),
    ],
)  # fmt: skip
def test_metadata_that_does_not_fit_is_refused(
    tmp_path: Path, write_image, message, lines: list[str], found: str, expected: str
) -> None:
    for name in ("a.png", "b.png"):
        write_image(tmp_path / name)
    path = tmp_path / "metadata.jsonl"
    path.write_text("\n".join(lines))
    pattern = message(f"{path} does not fit its images", found, expected, "correct or remove the file")
    with pytest.raises(QueryError, match=pattern):
        load_queries(tmp_path, (3, 6, 6))


@pytest.mark.parametrize(
    ("content", "problem", "found", "expected", "fix"),
    [
        (b"{", ", line 1: invalid JSON", "{", "one object per line, such as " + EXAMPLE, "correct the line"),
        (b"[" * 100_000, ", line 1: invalid JSON", "[" * 80, "one object per line, such as " + EXAMPLE,
         "correct the line"),
        (b'{"file_name": "\xff.png"}', None,
         'another encoding on line 1, perhaps Windows-1252: {"file_name": "\u00ff.png"}',
         "a readable UTF-8 file",
         "save it as UTF-8"),
    ],
)  # fmt: skip
def test_metadata_that_cannot_be_read_is_refused(
    tmp_path: Path,
    write_image,
    message,
    content: bytes,
    problem: str | None,
    found: str,
    expected: str,
    fix: str,
) -> None:
    write_image(tmp_path / "a.png")
    path = tmp_path / "metadata.jsonl"
    path.write_bytes(content)
    title = f"{path}{problem}" if problem else f"the metadata of queries {path} cannot be read"
    with pytest.raises(QueryError, match=message(title, found, expected, fix)):
        load_queries(tmp_path, (3, 6, 6))


@pytest.mark.parametrize(
    "name",
    [
        "../a",
        "/a",
        "a//b",
        "._a",
        ".git/b",
        "",
        "a\\b",
        "a\nb",
        "a\u2028b",
        "\udcff",
        "C:a",
        "x" * 252,
        "é" * 126,
    ],
)
def test_an_id_that_cannot_be_a_file_name_is_refused(tmp_path: Path, message, name: str) -> None:
    pattern = message(
        f"the query id {name!r} cannot be a file name",
        repr(name),
        "a relative path without '..', backslash, control characters or names of system files",
        "rename the query",
    )
    with pytest.raises(QueryError, match=pattern):
        save_queries(tmp_path / "q", Queries((name,), torch.zeros(1, 1, 2, 2)), {})
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_save_is_refused(tmp_path: Path, message) -> None:
    pattern = message("there are no queries to save", "0 queries", "at least 1", "sample some")
    with pytest.raises(QueryError, match=pattern):
        save_queries(tmp_path / "q", Queries((), torch.zeros(0, 1, 2, 2)), {})


def test_a_failed_save_leaves_the_queries_before_it(tmp_path: Path) -> None:
    save_queries(tmp_path / "q", some(), {})
    with pytest.raises(ValueError, match=r"^Out of range float values are not JSON compliant"):
        save_queries(tmp_path / "q", some(1), {"loss": float("nan")})
    assert len(load_queries(tmp_path / "q", (3, 4, 5))) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["q"]


def test_a_folder_is_listed_at_once_and_read_in_pieces(tmp_path: Path) -> None:
    save_queries(tmp_path / "q", some(5), {})
    whole = load_queries(tmp_path / "q", (3, 4, 5))
    for name in ("record.json", "seal.json"):  # a folder of one's own
        (tmp_path / "q" / name).unlink()
    (tmp_path / "q" / "cats" / "5.png").write_bytes(b"damaged")  # the first one, which nobody asks for
    folder = QueryFolder(tmp_path / "q", (3, 4, 5))
    assert (len(folder), folder.ids, folder.labels, folder.prompts) == (5, whole.ids, [0, 1, 2, 3, 4], None)
    part = folder.load(range(3, 5))
    assert part.ids == whole.ids[3:]
    assert torch.equal(part.images, whole.images[3:])
    assert part.labels is not None and part.labels.tolist() == [3, 4]
    with pytest.raises(QueryError, match=r"cats/5.png cannot be read\n"):
        folder.load([4, 0])


@pytest.mark.parametrize("conditioning", ["labels", "prompts", "nothing"])
def test_the_hash_of_pieces_is_that_of_the_whole(conditioning: str) -> None:
    queries = some(5, labels=conditioning == "labels")
    if conditioning == "prompts":
        queries = replace(queries, prompts=tuple("abcde"))
    digest = QueryHash()
    for rows in ([0, 1], [2], [3, 4]):
        digest.add(queries.take(rows))
    assert digest.hexdigest() == query_hash(queries)


def test_one_picture_has_one_key_however_it_was_scaled() -> None:
    levels = torch.arange(256, dtype=torch.float32).view(1, 1, 16, 16)
    ours = levels / 127.5 - 1
    scaled = torch.nextafter(ours, torch.full_like(ours, 0.5))
    assert not torch.equal(ours, scaled)
    assert content_keys(ours) == content_keys(scaled)
    other = ours.clone()
    other[0, 0, 3, 4] += 1 / 127.5
    assert content_keys(other) != content_keys(ours)
    assert content_keys(ours.view(1, 1, 8, 32)) != content_keys(ours)
