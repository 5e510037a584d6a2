"""Whatever happens to a byte of a sealed file, it is not read as good."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from guda_lightning import notes
from guda_lightning.errors import StoreError
from guda_lightning.storage import hashed, seals
from guda_lightning.storage.files import sha256_file
from guda_lightning.storage.frames import load_frame, save_frame
from guda_lightning.storage.sealed import read_sealed, read_tensors, write_json, write_tensors
from guda_lightning.storage.seals import (
    EMPTY,
    fault,
    folder_fault,
    intact,
    intact_work,
    refuse_damaged,
    refuse_damaged_folder,
    sealed,
    sealed_file,
    sealed_folder,
)
from toys import message

FIX = "make it again"
KINDS: dict[str, tuple[Callable[[Path], None], Callable[[Path], object]]] = {
    "json": (lambda path: write_json(path, {"a": 1.5, "b": ["ä"]}), lambda path: read_sealed(path, FIX)),
    "safetensors": (
        lambda path: write_tensors(path, {"x": torch.ones(3, 4), "y": torch.tensor(2)}, {"of": "z"}),
        lambda path: read_tensors(path, FIX),
    ),
    "parquet": (
        lambda path: save_frame(path, pd.DataFrame({"group": ["a", "b"], "value": [0.1, 2.0]}), {"n": 3}),
        lambda path: load_frame(path, "guda x"),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_no_flipped_bit_and_no_truncation_is_read_as_good(
    data: st.DataObject, kind: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    write, read = KINDS[kind]
    path = tmp_path_factory.getbasetemp() / f"flipped.{kind}"
    write(path)
    read(path)
    content = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        del content[position:]
    else:
        content[position] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"flipped\.\w+ is damaged"):
        read(path)


def test_every_bit_of_the_seal_counts(tmp_path: Path) -> None:
    path = tmp_path / "file"
    whole = sealed(f'"{EMPTY}"'.encode())
    for bit in range(8 * len(whole)):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        assert fault(path) is not None
    path.write_bytes(whole)
    assert fault(path) is None


@pytest.mark.parametrize("before", [0, 50, seals._CHUNK - 30, seals._CHUNK - 1, 2 * seals._CHUNK])
def test_a_file_that_is_sealed_in_place_has_the_seal_of_its_contents(before: int, tmp_path: Path) -> None:
    path, content = tmp_path / "file", b"x" * before + EMPTY.encode() + b"y" * 100
    with sealed_file(path) as temporary:
        temporary.write_bytes(content)
    assert path.read_bytes() == sealed(content)
    refuse_damaged(path, FIX)


@pytest.mark.parametrize("texts", [0, 2])
def test_what_has_no_room_for_one_seal_is_not_written(texts: int, tmp_path: Path) -> None:
    expected = message(
        "what is to be stored cannot be sealed",
        f"{texts} texts that look like a seal",
        "no name with 'guda-seal-' and 64 hexadecimal digits",
        "rename the group, query or file that is called so",
    )
    with pytest.raises(StoreError, match=expected), sealed_file(tmp_path / "file") as temporary:
        temporary.write_text(EMPTY * texts)
    with pytest.raises(StoreError, match=expected):
        sealed(EMPTY.encode() * texts)
    assert not list(tmp_path.iterdir())


def test_what_is_missing_or_has_no_seal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    with pytest.raises(
        StoreError, match=message(f"{path} cannot be read", "no such file", "a sealed file", FIX)
    ):
        read_sealed(path, FIX)
    path.write_text("{}")
    expected = "the seal of a file that this version wrote"
    with pytest.raises(StoreError, match=message(f"{path} is damaged", "no seal", expected, FIX)):
        read_sealed(path, FIX)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with sealed_folder(tmp_path / "made") as temporary:
        (temporary / "inside").mkdir()
        (temporary / "inside" / "a.bin").write_bytes(b"abc")
        (temporary / "b.txt").write_text("b")
    return tmp_path / "made"


def test_a_folder_knows_each_of_its_files(folder: Path) -> None:
    (folder / "added").touch()
    refuse_damaged_folder(folder, FIX)
    listed = json.loads((folder / "seal.json").read_text())["files"]
    assert listed == {name: sha256_file(folder / name) for name in ("inside/a.bin", "b.txt")}
    file = folder / "inside" / "a.bin"
    file.write_bytes(b"abd")
    found = f"contents with sha256 {sha256_file(file)[:16]}"
    expected = f"contents with sha256 {listed['inside/a.bin'][:16]}, as {folder / 'seal.json'} says"
    for part in ("", "inside", "inside/a.bin"):
        with pytest.raises(StoreError, match=message(f"{file} is damaged", found, expected, FIX)):
            refuse_damaged_folder(folder, FIX, part)
    refuse_damaged_folder(folder, FIX, "b.txt")
    file.unlink()
    with pytest.raises(StoreError, match=message(f"{file} cannot be read", "no such file", expected, FIX)):
        refuse_damaged_folder(folder, FIX)


def test_a_folder_without_a_seal_or_whose_seal_is_damaged_is_refused(folder: Path) -> None:
    path = folder / "seal.json"
    path.write_text(path.read_text().replace("b.txt", "c.txt"))
    with pytest.raises(StoreError, match=f"{path} is damaged"):
        refuse_damaged_folder(folder, FIX)
    path.unlink()
    expected = "the seal.json of a folder that this version wrote"
    with pytest.raises(StoreError, match=message(f"{folder} is damaged", "no seal", expected, FIX)):
        refuse_damaged_folder(folder, FIX)


@pytest.mark.parametrize("files", [None, ["b.txt"], {"../outside": "0" * 64}, {"/etc/hostname": "0" * 64}])
def test_a_seal_lists_the_files_of_its_folder(files: object, folder: Path) -> None:
    path = folder / "seal.json"
    write_json(path, {"files": files})
    expected = message(f"{path} is damaged", "no list of its files", "hashes of the files in its folder", FIX)
    with pytest.raises(StoreError, match=expected):
        refuse_damaged_folder(folder, FIX)


def test_what_can_be_made_again_is_removed_with_a_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "part"
    assert not intact(path, "it is made again")
    assert not capsys.readouterr().out
    write_json(path, {})
    assert intact(path, "it is made again")
    path.write_text("{}")
    notes.begin()
    assert not intact(path, "it is made again")
    assert not path.exists()
    said = "no seal instead of the seal of a file that this version wrote; it is made again"
    assert capsys.readouterr().out == f"{path} is damaged: {said}\n"


def test_unfinished_work_is_removed_where_it_is_damaged_and_kept_where_it_is_of_an_earlier_version(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert intact_work(folder, folder_fault(folder), "it begins again")
    (folder / "seal.json").rename(folder / "aside")
    expected = message(
        f"{folder} cannot be gone on with",
        f"{folder}: no seal",
        "the seal.json of a folder that this version wrote",
        f"finish it with the version that began it, or remove {folder} to begin again",
    )
    with pytest.raises(StoreError, match=expected):
        intact_work(folder, folder_fault(folder), "it begins again")
    (folder / "aside").rename(folder / "seal.json")
    (folder / "b.txt").write_text("c")
    notes.begin()
    assert not intact_work(folder, folder_fault(folder), "it begins again")
    assert not list(folder.parent.iterdir())
    assert capsys.readouterr().out.endswith("seal.json says; it begins again\n")


def test_a_large_file_is_read_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, read = tmp_path / "file", list[Path]()

    def counting(path: Path, real: Callable[[Path], object] = seals._sealing) -> object:
        read.append(path)
        return real(path)

    monkeypatch.setattr(seals, "_sealing", counting)
    monkeypatch.setattr(hashed, "SETTLED", -1e9)
    path.write_bytes(sealed(EMPTY.encode() + bytes(hashed._LARGE)))
    for _ in range(3):
        assert fault(path) is None
    assert len(read) == 1
    stat = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert fault(path) is not None
    assert len(read) == 2
