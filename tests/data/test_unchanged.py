"""What a stage wrote and a configuration names as data is refused where it has changed since."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from guda_lightning.data import GroupDataModule, ImageFolder, Listed
from guda_lightning.errors import StoreError
from guda_lightning.stages.curate import _write_groups
from guda_lightning.storage.hashed import hash_of
from guda_lightning.storage.seals import sealed_folder
from toys import Shades, message


def fix(folder: Path) -> str:
    return (
        f"restore it, or run the command that wrote {folder} again; where it was changed on purpose, "
        "remove seal.json there"
    )


@pytest.fixture
def balanced(tmp_path: Path) -> Path:
    with sealed_folder(tmp_path / "guidance") as folder:
        for name in ("images/a/0.png", "images/b/0.png"):
            (folder / name).parent.mkdir(parents=True)
            Image.new("L", (4, 4)).save(folder / name)
        (folder / "groups.jsonl").write_text(
            '{"group":["a"],"id":"a/0.png"}\n{"group":["b"],"id":"b/0.png"}\n'
        )
    return tmp_path / "guidance"


def as_data(folder: Path) -> GroupDataModule:
    return GroupDataModule(ImageFolder(str(folder / "images")), groups=str(folder / "groups.jsonl"))


def test_a_balanced_set_that_lost_lines_of_its_groups_is_refused(balanced: Path) -> None:
    assert as_data(balanced).grouping.names == ("a", "b")
    table = balanced / "groups.jsonl"
    whole = hash_of(table)
    table.write_text(table.read_text().splitlines(keepends=True)[0])
    found, expected = (f"contents with sha256 {digest[:16]}" for digest in (hash_of(table), whole))
    said = message(
        f"{table} is damaged", found, f"{expected}, as {balanced / 'seal.json'} says", fix(balanced)
    )
    with pytest.raises(StoreError, match=said):
        _ = as_data(balanced).grouping
    own = balanced.parent / "own.jsonl"
    shutil.copy(table, own)
    data = GroupDataModule(ImageFolder(str(balanced / "images")), groups=str(own))
    assert data.grouping.names == ("a",)


def test_a_balanced_set_that_lost_or_changed_a_picture_is_refused(balanced: Path) -> None:
    picture = balanced / "images" / "b" / "0.png"
    Image.new("L", (4, 4), 255).save(picture)
    with pytest.raises(StoreError) as caught:
        as_data(balanced).setup()
    assert caught.value.problem == f"{picture} is damaged" and caught.value.fix == fix(balanced)
    picture.unlink()
    with pytest.raises(StoreError) as caught:
        ImageFolder(str(balanced / "images")).load()
    assert caught.value.problem == f"{picture} cannot be read"
    (balanced / "seal.json").unlink()
    picture.parent.rmdir()
    assert ImageFolder(str(balanced / "images")).load().ids == ("a/0.png",)


def test_samples_that_stay_after_curation_are_all_there(tmp_path: Path) -> None:
    table, kept = tmp_path / "some.jsonl", tmp_path / "groups.jsonl"
    table.write_text('{"id": "0", "group": "a"}\n{"id": "1", "group": "a"}\n')
    _write_groups(kept, GroupDataModule(Listed(Shades(2), str(table)), groups=str(table)), [])
    assert Listed(Shades(2), str(kept)).load().ids == ("0", "1")
    kept.write_text(kept.read_text().splitlines(keepends=True)[0])
    with pytest.raises(StoreError) as caught:
        Listed(Shades(2), str(kept)).load()
    assert caught.value.problem == f"{kept} is damaged" and caught.value.fix == fix(tmp_path)


@pytest.mark.parametrize("name", ["seal.json", "pictures/seal.json"])
def test_a_file_that_is_called_so_is_no_seal(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.new("L", (4, 4)).save(folder / "seal.png")
    (tmp_path / name).write_text('{"animal": "seal"}')
    assert ImageFolder(str(folder)).load().ids == ("seal.png",)
