"""The notebook of the docs runs from its first cell to its last, and so does the Python of pages on runs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from guda_lightning import ScoreTable

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


def test_the_notebook_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(folder / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(folder / "jupyter"))
    copy = folder / NOTEBOOK.name
    shutil.copy(NOTEBOOK, copy)
    execute = Path(sys.executable).with_name("jupyter-execute")
    ended = subprocess.run(
        [execute, "--inplace", "--timeout=600", copy], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    cells = [cell for cell in json.loads(copy.read_text())["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"][-1]["output_type"] == "execute_result" for cell in cells)
    shown = ["".join(cell["outputs"][-1]["data"].get("text/html", "")) for cell in cells]
    assert "undecided" in shown[2] and shown[3].startswith("<table><caption>retrack, weighting elbo, seed 0")
    assert "image/png" in cells[4]["outputs"][-1]["data"]


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
