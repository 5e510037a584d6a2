from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from guda_lightning.data import Digits, HubDataset, ImageFolder, ImageTable, Parquet
from guda_lightning.errors import DataError, MissingExtraError

FIX_ORIGIN = "correct the path, name, split or configuration"
READABLE = "images that the library 'datasets' can open"


def cifar_layout(path: Path, count: int = 6, first: int = 0) -> np.ndarray:
    """Write a file like those of the public CIFAR-10: a struct of bytes and path, and a number."""
    rng = np.random.default_rng(first)
    pixels = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    cells = []
    for image in pixels:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        cells.append({"bytes": buffer.getvalue(), "path": None})
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    labels = [(first + number) % 3 for number in range(count)]
    pq.write_table(pa.table({"img": pa.array(cells, kind), "label": labels}), path)
    return pixels


def test_digits_spread_their_17_levels_over_the_bytes() -> None:
    table = Digits().load()
    pixels = table.pixels()
    raw = load_digits()
    assert pixels.shape == (1797, 1, 8, 8)
    assert pixels.dtype == torch.uint8
    assert (pixels.unique().numpy() == np.rint(np.arange(17) * 255 / 16)).all()
    assert np.abs(pixels[:, 0].numpy() / 255 * 16 - raw.images).max() < 0.04
    assert table.ids[:2] == ("0", "1")
    assert table.labels is not None
    assert [int(label) for label in table.labels] == raw.target.tolist()
    assert table.label_names == tuple("0123456789")


def test_digits_name_the_extra_they_need(monkeypatch: pytest.MonkeyPatch, message) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    expected = message(
        "scikit-learn is not installed",
        "no package named scikit-learn",
        "the optional dependencies of the extra 'digits'",
        'pip install "guda-lightning[digits]"',
    )
    with pytest.raises(MissingExtraError, match=expected):
        Digits().load()


def test_a_folder_is_labelled_by_its_first_level_and_sorted(image_folder, write_image) -> None:
    # 'train' and 'test' are names that the datasets library would take for splits.
    root = image_folder(["zebra/1.png", "train/oil/2.png", "test/2.PNG", "test/1.png"])
    (root / "test" / "notes.txt").write_text("not an image")
    (root / "metadata.csv").write_text("file_name,mood\ntest/1.png,sad\n")
    table = ImageFolder(str(root)).load()
    assert table.ids == ("test/1.png", "test/2.PNG", "train/oil/2.png", "zebra/1.png")
    assert table.labels == ("test", "test", "train", "zebra")
    assert table.label_names == ("test", "train", "zebra")
    written = write_image(root / "zebra/1.png", seed=0)
    assert (table.pixels([3])[0].permute(1, 2, 0).numpy() == written).all()


def test_a_folder_without_subfolders_has_no_labels(image_folder) -> None:
    table = ImageFolder(str(image_folder(["a.png", "b.png"]))).load()
    assert table.labels is None
    assert table.label_names == ()


def test_a_path_is_taken_literally(image_folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = tmp_path / "run[1]*"
    odd.mkdir()
    image_folder(["cats/1.png"]).rename(odd / "images")
    pixels = cifar_layout(odd / "a.parquet")
    monkeypatch.chdir(odd)
    assert ImageFolder("images").load().ids == ("cats/1.png",)
    assert len(Parquet(str(odd)).load().ids) == len(pixels)


def test_an_image_added_later_is_seen(image_folder, write_image) -> None:
    root = image_folder(["cats/1.png"])
    assert len(ImageFolder(str(root)).load().ids) == 1
    write_image(root / "cats/2.png")
    assert len(ImageFolder(str(root)).load().ids) == 2


def test_unfit_folders_are_explained(image_folder, tmp_path: Path, message) -> None:
    expected = "a folder with one subfolder of images per group"
    nowhere = tmp_path / "nowhere"
    problem = f"the image folder {nowhere} cannot be read"
    with pytest.raises(DataError, match=message(problem, "nothing there", expected, "correct the path")):
        ImageFolder(str(nowhere)).load()
    nowhere.touch()
    with pytest.raises(DataError, match=message(problem, "a file", expected, "correct the path")):
        ImageFolder(str(nowhere)).load()
    empty = tmp_path / "empty"
    (empty / "cats").mkdir(parents=True)
    pattern = message(
        f"the image folder {empty} has no images",
        "no file",
        "one subfolder of images per group",
        "correct the path, or convert the images",
    )
    with pytest.raises(DataError, match=pattern):
        ImageFolder(str(empty)).load()
    root = image_folder(["stray.png", "cats/1.png", "cats/2.png"])
    pattern = message(
        f"some images of {root} are in no group's folder",
        "1 images beside 1 subfolders, such as 'stray.png'",
        "every image in a subfolder, or none",
        "move them into a subfolder, which becomes their label",
    )
    with pytest.raises(DataError, match=pattern):
        ImageFolder(str(root)).load()


@pytest.mark.parametrize("damage", ["truncated", "text"])
def test_a_damaged_image_is_named(image_folder, damage: str) -> None:
    root = image_folder(["cats/1.png", "cats/2.png"])
    whole = (root / "cats/2.png").read_bytes()
    (root / "cats/2.png").write_bytes(whole[: len(whole) // 2] if damage == "truncated" else b"hello")
    table = ImageFolder(str(root)).load()
    with pytest.raises(DataError, match=r"^the image 'cats/2.png' cannot be read\n  found: "):
        table.pixels()


def test_an_image_of_16_bits_is_refused(tmp_path: Path, message) -> None:
    (tmp_path / "a").mkdir()
    Image.fromarray(np.full((4, 4), 40_000, dtype=np.uint16)).save(tmp_path / "a/deep.png")
    pattern = message(
        "the image 'a/deep.png' cannot be read",
        "a picture of mode 'I;16', not 8-bit gray or colour",
        "complete pictures of 8 bits per channel",
        "repair, convert or remove them",
    )
    with pytest.raises(DataError, match=pattern):
        ImageFolder(str(tmp_path)).load().pixels()


def test_sizes_that_differ_need_a_size(tmp_path: Path, write_image, message) -> None:
    write_image(tmp_path / "a/1.png", size=(6, 4))
    write_image(tmp_path / "a/2.png", size=(9, 5))
    table = ImageFolder(str(tmp_path)).load()
    pattern = message(
        "the images differ in size",
        "'a/1.png' is 6 x 4 pixels, 'a/2.png' is 9 x 5 pixels",
        "one width and height",
        "set data.image_size, which crops to a square and resizes",
    )
    with pytest.raises(DataError, match=pattern):
        table.pixels()
    assert table.pixels(size=(3, 3)).shape == (2, 3, 3, 3)
    assert table.pixels([0]).shape == (1, 3, 4, 6)


def test_resizing_crops_the_centre_and_averages(tmp_path: Path) -> None:
    picture = np.zeros((8, 12), dtype=np.uint8)
    picture[:, 2:6], picture[:, 6:10], picture[:, :2] = 100, 200, 255  # the outer columns must not count
    (tmp_path / "a").mkdir()
    Image.fromarray(picture).save(tmp_path / "a/1.png")
    table = ImageFolder(str(tmp_path)).load()
    half = table.pixels(size=(4, 4))[0, 0].numpy()
    assert np.abs(half[:, [0, 3]].astype(int) - [100, 200]).max() <= 3
    reference = Image.fromarray(picture[:, 2:10]).resize((4, 4), Image.Resampling.LANCZOS)
    assert (half == np.asarray(reference)).all()


def test_gray_and_colour_mix_into_colour(tmp_path: Path, write_image) -> None:
    gray = write_image(tmp_path / "a/1.png", mode="L")
    colour = write_image(tmp_path / "a/2.png", mode="RGB")
    table = ImageFolder(str(tmp_path)).load()
    pixels = table.pixels().numpy()
    assert (pixels[0] == gray).all()
    assert (pixels[1] == colour.transpose(2, 0, 1)).all()
    assert table.pixels([0]).shape == (1, 1, 6, 6)
    assert table.pixels([0], channels=3).shape == (1, 3, 6, 6)
    luma = colour @ np.array([0.299, 0.587, 0.114])  # ITU-R 601
    assert np.abs(table.pixels([1], channels=1)[0, 0].numpy() - luma).max() <= 1


def test_a_camera_rotation_is_obeyed(tmp_path: Path, write_image) -> None:
    pixels = write_image(tmp_path / "upright.png", size=(4, 2))
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate 90 degrees clockwise to show"
    Image.fromarray(pixels).save(tmp_path / "upright.png", exif=exif)
    shown = ImageFolder(str(tmp_path)).load().pixels()[0].permute(1, 2, 0).numpy()
    assert (shown == np.rot90(pixels, k=-1)).all()


def test_parquet_in_the_public_cifar_layout(tmp_path: Path) -> None:
    second, first = cifar_layout(tmp_path / "b.parquet", 4, first=6), cifar_layout(tmp_path / "a.parquet", 6)
    for path in (tmp_path, tmp_path / "*.parquet"):
        table = Parquet(str(path)).load()
        assert table.ids == tuple(map(str, range(10)))
        assert table.labels == tuple("0120120120")
        assert table.label_names == ("0", "1", "2")
    assert (table.pixels().permute(0, 2, 3, 1).numpy() == np.concatenate([first, second])).all()
    names = ["cat", "dog", "emu", "owl"]
    named = Parquet(str(tmp_path / "a.parquet"), label_names=names).load()
    assert named.labels == ("cat", "dog", "emu") * 2
    assert named.label_names == tuple(names)


def test_numbers_are_ordered_by_value_and_ids_come_from_a_column(tmp_path: Path) -> None:
    cifar_layout(tmp_path / "a.parquet", 3)
    table = pq.read_table(tmp_path / "a.parquet").set_column(1, "label", [[10, 9, 10]])
    pq.write_table(table.append_column("name", [["x", "y", "z"]]), tmp_path / "a.parquet")
    loaded = Parquet(str(tmp_path / "a.parquet"), id_column="name").load()
    assert loaded.ids == ("x", "y", "z")
    assert loaded.labels == ("10", "9", "10")
    assert loaded.label_names == ("9", "10")
    assert Parquet(str(tmp_path / "a.parquet"), label_column=None).load().labels is None


def test_unfit_parquet_is_explained(tmp_path: Path, message) -> None:
    path = tmp_path / "a.parquet"
    expected = "a .parquet file, a folder of them, or a pattern that matches some"
    with pytest.raises(
        DataError,
        match=message(f"no Parquet file at {path}", "nothing there", expected, "correct the path"),
    ):
        Parquet(str(path)).load()
    found = "a folder without .parquet files"
    with pytest.raises(
        DataError,
        match=message(f"no Parquet file at {tmp_path}", found, expected, "correct the path"),
    ):
        Parquet(str(tmp_path)).load()
    cifar_layout(path)
    pattern = message(
        f"{path} has no column 'image'",
        "the columns 'img', 'label'",
        "a column 'image'",
        "name another column, perhaps 'img'",
    )
    with pytest.raises(DataError, match=pattern):
        Parquet(str(path), image_column="image").load()
    pattern = message(
        f"the column 'label' of {path} holds no images",
        "Value('int64')",
        "encoded images: bytes, paths, or both",
        "name the column with the images",
    )
    with pytest.raises(DataError, match=pattern):
        Parquet(str(path), image_column="label").load()
    pattern = message(
        f"row 1 of {path} has no usable label",
        "1",
        "a number from 0 to 0",
        "correct the column, name another one, or train on a split that has labels",
    )
    with pytest.raises(DataError, match=pattern):
        Parquet(str(path), label_names=["cat"]).load()
    pattern = message(
        "two samples have the id '0'",
        "3 different ids for 6 samples",
        "one id per sample",
        "name a column with unique ids, or none to number the rows",
    )
    with pytest.raises(DataError, match=pattern):
        Parquet(str(path), id_column="label").load()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(
        DataError, match=rf"^the Parquet data {path} cannot be read\n  found:    ArrowInvalid: "
    ):
        Parquet(str(path)).load()


def with_prompts(path: Path, prompts: list[object]) -> None:
    cifar_layout(path, len(prompts))
    pq.write_table(pq.read_table(path).append_column("text", [prompts]), path)


def test_prompts_come_from_a_column(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    with_prompts(path, ["A cat", " a dog"])
    assert Parquet(str(path), prompt_column="text").load().prompts == ("A cat", " a dog")
    assert Parquet(str(path)).load().prompts is None
    hub = HubDataset(str(tmp_path), image_column="img", prompt_column="text").load()
    assert hub.prompts == ("A cat", " a dog")


@pytest.mark.parametrize(
    ("prompts", "row"), [(["A cat", None], 1), (["A cat", "a dog", " "], 2), ([3, 4], 0), ([["A cat"]], 0)]
)
def test_a_row_without_a_text_is_refused(tmp_path: Path, message, prompts: list[object], row: int) -> None:
    path = tmp_path / "a.parquet"
    with_prompts(path, prompts)
    pattern = message(
        f"row {row} of {path} has no usable prompt",
        repr(prompts[row]),
        "a text",
        "correct the column, or name another one",
    )
    with pytest.raises(DataError, match=pattern):
        Parquet(str(path), prompt_column="text").load()


def saved(tmp_path: Path) -> datasets.Dataset:
    pixels = cifar_layout(tmp_path / "a.parquet", 4)
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["yes", "no", "maybe"])}
    )
    rows = {"image": [Image.fromarray(image) for image in pixels], "label": [1, 0, 1, 0]}
    return datasets.Dataset.from_dict(rows, features=features)


def test_a_saved_dataset_keeps_the_names_of_its_classes(tmp_path: Path, message) -> None:
    dataset = saved(tmp_path)
    dataset.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": dataset, "test": dataset.select([0])}).save_to_disk(tmp_path / "two")
    for folder in ("one", "two"):
        table = HubDataset(str(tmp_path / folder)).load()
        assert table.labels == ("no", "yes", "no", "yes")
        assert table.label_names == ("yes", "no", "maybe")
        assert table.pixels().shape == (4, 3, 32, 32)
    assert len(HubDataset(str(tmp_path / "two"), split="test").load().ids) == 1
    pattern = message(
        f"the dataset {tmp_path / 'two'} has no split 'tset'",
        "the splits 'train', 'test'",
        "a split 'tset'",
        "set data.source.split to one of them",
    )
    with pytest.raises(DataError, match=pattern):
        HubDataset(str(tmp_path / "two"), split="tset").load()


def test_a_dataset_without_labels_for_its_rows_is_refused(tmp_path: Path, message) -> None:
    dataset = saved(tmp_path)
    hidden = dataset.map(lambda row: {"label": -1}, features=dataset.features)
    hidden.save_to_disk(tmp_path / "hidden")
    pattern = message(
        f"row 0 of {tmp_path / 'hidden'} has no usable label",
        "-1",
        "a number from 0 to 2",
        "correct the column, name another one, or train on a split that has labels",
    )
    with pytest.raises(DataError, match=pattern):
        HubDataset(str(tmp_path / "hidden")).load()


def test_a_local_folder_in_the_hub_layout_is_read(tmp_path: Path, message) -> None:
    folder = tmp_path / "hub"
    folder.mkdir()
    cifar_layout(folder / "train.parquet")
    assert len(HubDataset(str(folder), image_column="img").load().ids) == 6
    pattern = message(
        f"the dataset {folder} cannot be read",
        "ValueError: Unknown split \"tset\". Should be one of ['train'].",
        READABLE,
        FIX_ORIGIN,
    )
    with pytest.raises(DataError, match=pattern):
        HubDataset(str(folder), image_column="img", split="tset").load()


def test_a_table_that_does_not_fit_together_is_refused(message) -> None:
    def read(index: int) -> Image.Image:
        return Image.new("L", (2, 2), index)

    assert ImageTable(("a", "b"), read).pixels()[:, 0, 0, 0].tolist() == [0, 1]
    pattern = message("the source has no samples", "0 images", "at least 1", "check its path or split")
    with pytest.raises(DataError, match=pattern):
        ImageTable((), read)
    pattern = message(
        "the labels do not fit the samples",
        "1 labels, without a name: ['dog']",
        "2 labels out of 1 names",
        "give every sample a label and every label a name",
    )
    with pytest.raises(DataError, match=pattern):
        ImageTable(("a", "b"), read, ("dog",), ("cat",))
    for prompts, empty in ((("A cat",), 0), (("A cat", " "), 1), (("A cat", "a dog", ""), 1)):
        pattern = message(
            "the prompts do not fit the samples",
            f"{len(prompts)} prompts, {empty} of them empty",
            "2 prompts, none of them empty",
            "give every sample a prompt",
        )
        with pytest.raises(DataError, match=pattern):
            ImageTable(("a", "b"), read, prompts=prompts)


@pytest.mark.skipif(
    "GUDA_CIFAR10" not in os.environ, reason="no CIFAR-10: set GUDA_CIFAR10 to its Parquet file"
)
def test_the_real_cifar10() -> None:
    table = Parquet(os.environ["GUDA_CIFAR10"]).load()
    assert table.label_names == tuple("0123456789")
    assert table.pixels(range(0, len(table.ids), 500)).shape[1:] == (3, 32, 32)
    assert table.pixels([0], size=(8, 8)).shape == (1, 3, 8, 8)
