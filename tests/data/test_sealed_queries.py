"""Pictures that a stage drew are refused where they have changed; a folder of one's own is what it is."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from guda_lightning.data import load_queries, save_queries
from guda_lightning.errors import StoreError
from guda_lightning.types import Queries
from toys import message

SHAPE = (1, 4, 4)


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    save_queries(tmp_path / "q", Queries(("a", "b"), torch.zeros(2, *SHAPE), torch.tensor([0, 1])), {})
    return tmp_path / "q"


def fix(folder: Path) -> str:
    return (
        f"remove {folder} and run the command that makes it again; or, where it was changed on purpose, "
        "remove seal.json and record.json in it, and it is a folder of your own"
    )


def test_a_label_that_changed_is_refused(drawn: Path) -> None:
    path = drawn / "metadata.jsonl"
    path.write_text(path.read_text().replace("1", "0"))
    for given in (drawn, drawn / "a.png"):
        with pytest.raises(StoreError) as caught:
            load_queries(given, SHAPE)
        assert caught.value.problem == f"{path} is damaged"
        assert caught.value.fix == fix(drawn)


def test_a_folder_that_lost_its_seal_is_refused(drawn: Path) -> None:
    (drawn / "seal.json").unlink()
    expected = "the seal.json of a folder that this version wrote"
    with pytest.raises(StoreError, match=message(f"{drawn} is damaged", "no seal", expected, fix(drawn))):
        load_queries(drawn, SHAPE)


def test_what_is_added_and_what_is_copied_is_ones_own(drawn: Path) -> None:
    Image.new("L", (4, 4)).save(drawn / "c.png")
    assert load_queries(drawn / "c.png", SHAPE).ids == ("c",)
    own = drawn.with_name("own")
    own.mkdir()
    shutil.copy(drawn / "a.png", own)
    (own / "record.json").write_text('{"mine": 1}')
    assert load_queries(own, SHAPE).ids == ("a",)
