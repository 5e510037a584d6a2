"""Queries whose names cannot be kept are refused before anything is scored, however they are given."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
import torch

from guda_lightning import open_run
from guda_lightning.cli.main import main
from guda_lightning.data import save_queries
from guda_lightning.errors import QueryError
from guda_lightning.types import Queries

CONF = Path(__file__).parent / "conf"
UNFIT = "expected: images that Pillow opens; captions, archives and files of the system are ignored"


def attribute(run: Path, queries: Path) -> int:
    files = (part for name in ("digits", "attribute") for part in ("-c", f"{CONF}/{name}.yaml"))
    return main(["attribute", *files, "--run", str(run), "--queries", str(queries)])


@pytest.fixture
def run(finished_run: Path) -> Path:
    shutil.rmtree(finished_run / "scores")
    return finished_run


@pytest.fixture
def picture(run: Path) -> Path:
    return run / "queries" / "sample-0.png"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (b"two\nlines.png", "'two\\nlines.png': a line break or control character in its name"),
        (b"bell\x07.png", "'bell\\x07.png': a line break or control character in its name"),
        (b"\xe2\x80\xa8.png", "'\\u2028.png': a line break or control character in its name"),
        (b"\xff.png", "'\\udcff.png': a name that is no UTF-8"),
    ],
)
def test_names_that_cannot_be_kept_are_refused_before_scoring(
    run: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: bytes, said: str
) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    shutil.copy(picture, os.fsencode(folder) + b"/" + name)
    assert attribute(run, folder) == 2
    assert capsys.readouterr() == (
        "",
        f"error: {folder} has 1 file that cannot be used\n  found:    {said}\n  {UNFIT}\n"
        "  fix:      convert, rename or remove what is named\n",
    )
    one = Path(os.fsdecode(os.fsencode(folder) + b"/" + name))
    assert attribute(run, one) == 2
    assert capsys.readouterr().err.startswith("error: ")  # of the query, or of an option that is no UTF-8
    with pytest.raises(
        QueryError, match=rf"^the query id '{re.escape(ascii(one.stem)[1:-1])}' cannot be a file"
    ):
        open_run(run).attribute([str(picture), str(one)], by="retrack")
    assert not (run / "scores").exists()


def test_a_folder_called_as_a_picture_beside_it_is_refused_before_scoring(
    run: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "given"
    (folder / "a.png").mkdir(parents=True)
    shutil.copy(picture, folder / "a.jpg")
    shutil.copy(picture, folder / "a.png" / "b.png")
    assert attribute(run, folder) == 2
    text = (
        "the queries 'a' and 'a.png/b' cannot be stored beside each other\n"
        "  found:    the folder 'a.png', which is also the name of a picture\n"
        "  expected: folders that are not called as pictures beside them\n"
        "  fix:      rename the folder"
    )
    assert capsys.readouterr() == ("", f"error: {text}\n")
    assert not (run / "scores").exists()
    with pytest.raises(QueryError) as refused:
        save_queries(tmp_path / "q", Queries(("a", "a.png/b"), torch.zeros(2, 1, 8, 8)), {})
    assert str(refused.value) == text
