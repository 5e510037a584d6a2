"""Columns of Parquet files and of saved datasets: pictures, ids and labels, and what is taken for them."""

from __future__ import annotations

import base64
import os
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from guda_lightning.data import HubDataset, Parquet
from guda_lightning.errors import DataError


def png(value: int = 0) -> bytes:
    buffer = BytesIO()
    Image.fromarray(np.full((4, 4), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def shard(path: Path) -> None:
    """A file with two rows."""
    pq.write_table(pa.table({"img": [png(), png(1)], "label": [0, 1]}), path)


BASE64 = base64.b64encode(png())
ENCODED = "encoded images: bytes, or a struct of bytes and path"
ROWS = "store one picture a row, as the bytes of a PNG file"
DECODE = (
    "decode it once with the library 'datasets': "
    "table.map(lambda row: {'img': base64.b64decode(row['img'])}).to_parquet(FILE)"
)


@pytest.mark.parametrize(
    ("cells", "what", "found", "fix"),
    [
        ([BASE64.decode()], "base64", f"{BASE64[:60].decode()!r}...", DECODE),
        ([BASE64], "base64", f"{BASE64[:60]!r}...", DECODE),
        ([None, "cats/1.png"], "paths that lead to no file", "'cats/1.png' in FOLDER",
         "set data.source.init_args.image_folder to the folder where these paths begin, or use ImageFolder "
         "with a table of groups"),
        (["https://a.org/1.png"], "addresses", "'https://a.org/1.png'",
         "download them into a folder, and use ImageFolder with a table of groups"),
        ([[0, 1]], "lists", "List(Value('int64'))", ROWS),
        ([[[0], [1]]], "lists", "List(List(Value('int64')))", ROWS),
        ([[png(), png()]], "lists", "List(Value('binary'))", ROWS),
        ([{"data": png()}], "structs", "the entries 'data'", ROWS),
        ([None], "empty cells", "no value", "name the column with the images"),
    ],
)  # fmt: skip
def test_a_column_of_other_things_than_pictures_says_what_it_holds(
    tmp_path: Path, message, cells: list[object], what: str, found: str, fix: str
) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"img": cells}), path)
    problem = f"the column 'img' of {path} holds {what} instead of pictures"
    found = found.replace("FOLDER", str(tmp_path))
    with pytest.raises(DataError, match=message(problem, found, ENCODED, fix)):
        Parquet(str(path), label_column=None).load()


def test_paths_in_a_column_are_read_where_they_lead_to_files(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(png(7))
    pq.write_table(pa.table({"img": [str(tmp_path / "1.png")], "label": [0]}), tmp_path / "a.parquet")
    assert Parquet(str(tmp_path / "a.parquet")).load().pixels().unique().tolist() == [7]


def test_relative_paths_begin_at_the_file_or_at_the_folder_that_is_named(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/1.png").write_bytes(png(7))
    pq.write_table(pa.table({"img": ["1.png"], "label": [0]}), tmp_path / "a.parquet")
    named = Parquet(str(tmp_path / "a.parquet"), image_folder=str(tmp_path / "images"))
    assert named.load().pixels().unique().tolist() == [7]
    pq.write_table(pa.table({"img": ["1.png"], "label": [0]}), tmp_path / "images/a.parquet")
    assert Parquet(str(tmp_path / "images/a.parquet")).load().pixels().unique().tolist() == [7]


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("http://localhost:9/1.png", "the address 'http://localhost:9/1.png': nothing is fetched"),
        ("data:image/png;base64,", "the address 'data:image/png;base64,': nothing is fetched"),
        ("../2.png", "the path '../2.png' leads out of FOLDER"),
        ("OUTSIDE", "the path 'OUTSIDE' leads out of FOLDER"),
        ("link.png", "the path 'link.png' leads out of FOLDER"),
        ("pipe.png", "a pipe, a socket or a device"),
    ],
)
def test_a_row_reads_nothing_but_files_in_the_folder_of_the_table(
    tmp_path: Path, message, cell: str, reason: str
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "1.png").write_bytes(png())
    (tmp_path / "2.png").write_bytes(png())
    (folder / "link.png").symlink_to(tmp_path / "2.png")
    os.mkfifo(folder / "pipe.png")
    cell = cell.replace("OUTSIDE", str(tmp_path / "2.png"))
    pq.write_table(pa.table({"img": ["1.png", cell], "label": [0, 0]}), folder / "a.parquet")
    loaded = Parquet(str(folder / "a.parquet")).load()
    reason = reason.replace("FOLDER", str(folder)).replace("OUTSIDE", str(tmp_path / "2.png"))
    with pytest.raises(DataError) as caught:
        loaded.pixels()
    assert caught.value.found == reason


def test_true_and_false_are_labels(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"img": [png()] * 3, "label": [True, False, True]}), path)
    loaded = Parquet(str(path)).load()
    assert (loaded.labels, loaded.label_names) == (("True", "False", "True"), ("False", "True"))
    loaded = Parquet(str(path), label_names=["no", "yes"]).load()
    assert (loaded.labels, loaded.label_names) == (("yes", "no", "yes"), ("no", "yes"))


FIX_LABEL = "correct the column, name another one, or train on a split that has labels"


@pytest.mark.parametrize(
    ("labels", "row", "found", "fix"),
    [
        (["a", " "], 1, "' '", FIX_LABEL),
        ([1.0, 2.5], 1, "2.5", FIX_LABEL),
        ([[0, 1], [1]], 0, "[0, 1]", "put the groups of each id into a table, and name it as data.groups"),
    ],
)
def test_unusable_labels_are_refused(
    tmp_path: Path, message, labels: list[object], row: int, found: str, fix: str
) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"img": [png()] * len(labels), "label": labels}), path)
    expected = message(f"row {row} of {path} has no usable label", found, "a text or a whole number", fix)
    with pytest.raises(DataError, match=expected):
        Parquet(str(path)).load()


def test_a_table_without_labels_says_how_to_do_without(tmp_path: Path, message) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"img": [png()]}), path)
    expected = message(
        f"{path} has no column 'label'",
        "the columns 'img'",
        "a column 'label'",
        "check that this is the right file, or set label_column to null where there are none",
    )
    with pytest.raises(DataError, match=expected):
        Parquet(str(path)).load()
    assert Parquet(str(path), label_column=None).load().labels is None


def test_two_classes_of_one_name_are_refused(tmp_path: Path, message) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"img": [png()] * 2, "label": [0, 1]}), path)
    problem = f"two classes of {path} have the name 'x'"
    expected = message(problem, "'x', 'x'", "one name for each class", "correct label_names")
    with pytest.raises(DataError, match=expected):
        Parquet(str(path), label_names=["x", "x"]).load()


@pytest.mark.parametrize("ids", [["a", None], ["a", ""], [1.0, float("nan")], [b"a", b"b"]])
def test_ids_that_are_missing_are_refused(tmp_path: Path, message, ids: list[object]) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"img": [png()] * 2, "name": pa.array(ids, from_pandas=False)}), path)
    row = 0 if isinstance(ids[0], bytes) else 1
    expected = message(
        f"row {row} of {path} has no usable id",
        f"{ids[row]!r} in the column 'name'",
        "a text or a number",
        "fill in the column, name another one, or leave out id_column, which numbers the rows",
    )
    with pytest.raises(DataError, match=expected):
        Parquet(str(path), id_column="name", label_column=None).load()


@pytest.mark.parametrize(
    ("files", "found", "start"),
    [
        (["test-0", "train-0", "train-1"], "1 of test (test-0.parquet), 2 of train (train-0.parquet)",
         "train"),
        (["Train", "VAL"], "1 of train (Train.parquet), 1 of validation (VAL.parquet)", "Train"),
        (["cifar_test", "cifar_train_00"],
         "1 of test (cifar_test.parquet), 1 of train (cifar_train_00.parquet)", "cifar_train"),
        (["a", "test"], "1 of no split (a.parquet), 1 of test (test.parquet)", "a"),
    ],
)  # fmt: skip
def test_a_folder_of_several_splits_is_refused(
    tmp_path: Path, message, files: list[str], found: str, start: str
) -> None:
    for name in files:
        shard(tmp_path / f"{name}.parquet")
    expected = message(
        f"the folder {tmp_path} holds several splits",
        found,
        "the files of one split, or a pattern that says which are meant",
        f"set data.source.path to {tmp_path}/{start}*.parquet, or to {tmp_path}/*.parquet for all of them",
    )
    with pytest.raises(DataError, match=expected):
        Parquet(str(tmp_path)).load()
    assert len(Parquet(f"{tmp_path}/{start}*.parquet").load().ids) == 2 * sum(
        name.startswith(start) for name in files
    )
    assert len(Parquet(f"{tmp_path}/*.parquet").load().ids) == 2 * len(files)


@pytest.mark.parametrize(
    "files", [["train-0", "train-1"], ["test-0", "test-1"], ["0000", "0001"], ["a", "contest"]]
)
def test_a_folder_of_one_split_is_read(tmp_path: Path, files: list[str]) -> None:
    for name in files:
        shard(tmp_path / f"{name}.PARQUET")
    (tmp_path / "._a.parquet").write_bytes(b"junk")
    assert len(Parquet(str(tmp_path)).load().ids) == 4


def test_a_folder_inside_is_named(tmp_path: Path, message) -> None:
    (tmp_path / "data").mkdir()
    shard(tmp_path / "data/train-0.parquet")
    expected = message(
        f"no Parquet file at {tmp_path}",
        f"a folder without .parquet files, but with {tmp_path}/data/train-0.parquet",
        "a .parquet file, a folder of them, or a pattern that matches some",
        f"set data.source.path to {tmp_path}/data",
    )
    with pytest.raises(DataError, match=expected):
        Parquet(str(tmp_path)).load()
    assert len(Parquet(f"{tmp_path}/*/train*.parquet").load().ids) == 2


def test_several_folders_inside_are_named(tmp_path: Path, message) -> None:
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        shard(tmp_path / split / "0.parquet")
    expected = message(
        f"no Parquet file at {tmp_path}",
        f"a folder without .parquet files, but with {tmp_path}/test/0.parquet",
        "a .parquet file, a folder of them, or a pattern that matches some",
        f"set data.source.path to {tmp_path}/test or {tmp_path}/train, or to a pattern for several of them",
    )
    with pytest.raises(DataError, match=expected):
        Parquet(str(tmp_path)).load()


def test_shards_without_rows_are_read(tmp_path: Path) -> None:
    shard(tmp_path / "0.parquet")
    pq.write_table(pq.read_table(tmp_path / "0.parquet").slice(0, 0), tmp_path / "1.parquet")
    assert Parquet(str(tmp_path)).load().labels == ("0", "1")


def test_whole_numbers_that_pandas_wrote_as_fractions_are_labels(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"img": [png()] * 3, "label": [10.0, 9.0, 10.0]}), path)
    table = Parquet(str(path)).load()
    assert (table.labels, table.label_names) == (("10", "9", "10"), ("9", "10"))


def test_a_damaged_dataset_is_refused(tmp_path: Path, message) -> None:
    (tmp_path / "state.json").write_text("{")
    expected = message(
        f"the dataset {tmp_path} cannot be read",
        "JSONDecodeError: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
        "images that the library 'datasets' can open",
        "correct the path, name, split or configuration",
    )
    (tmp_path / "dataset_info.json").write_text("{}")
    with pytest.raises(DataError, match=expected):
        HubDataset(str(tmp_path)).load()
