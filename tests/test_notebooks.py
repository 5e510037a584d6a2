"""The notebook of the docs runs from its first cell to its last, and so does the Python of pages on runs."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from guda_lightning import ScoreTable
from warm import Server

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "docs" / "notebooks" / "first_answer.ipynb"
SMALL = {"sample-00": "sample-0", 'by="guided"': 'by="retrack"'}  # what the small run has


@pytest.fixture
def folder(finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a small run in the place of the demo's, and an image of one's own."""
    (tmp_path / "runs").mkdir()
    finished_run.rename(tmp_path / "runs" / "digits")
    shutil.copy(tmp_path / "runs" / "digits" / "queries" / "sample-0.png", tmp_path / "my_image.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_cells(folder: Path) -> None:
    """What a kernel does: run the cells of the notebook in a folder, and keep what each one ends with."""
    os.environ["IPYTHONDIR"] = str(folder / "ipython")
    os.chdir(folder)
    from IPython.core.interactiveshell import InteractiveShell

    shell, shown = InteractiveShell.instance(), []
    for cell in json.loads(NOTEBOOK.read_text("utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            ended = shell.run_cell("".join(cell["source"]))
            ended.raise_error()
            assert ended.result is not None
            forms, _ = shell.display_formatter.format(ended.result)
            shown.append({kind: str(form) for kind, form in forms.items()})
    (folder / "shown.json").write_text(json.dumps(shown))


def test_the_notebook_runs(folder: Path, warm: Server) -> None:
    with warm.process(folder / "log.txt", run_cells, folder) as process:
        assert process.wait() == 0, process.log.read_text()
    shown = json.loads((folder / "shown.json").read_text())
    html = [forms.get("text/html", "") for forms in shown]
    assert "undecided" in html[2] and html[3].startswith("<table><caption>retrack, weighting elbo, seed 0")
    assert "image/png" in shown[4]


@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_one_image_is_attributed_in_three_lines(page: str, folder: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text("utf-8"), re.M | re.S)
    blocks = [block for block in blocks if "open_run(" in block]
    assert len(blocks[0].split("\n")) == 5  # with an empty line on either side
    for block in blocks:
        for shown, small in SMALL.items():
            block = block.replace(shown, small)
        *lines, last = block.strip().split("\n")
        names: dict[str, object] = {}
        exec("\n".join(lines), names)
        if last.startswith("table = "):
            exec(last, names)
            assert isinstance(names["table"], ScoreTable) and names["table"].groups == ("3", "7")
        else:
            frame = eval(last, names)
            assert isinstance(frame, pd.DataFrame) and list(frame["rank"]) == [1, 2, 3]
            assert list(frame.columns[-2:]) == ["margin", "undecided"]
