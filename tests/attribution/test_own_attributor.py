"""A new attributor is one file and one YAML."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from guda_lightning import ScoreTable
from guda_lightning.cli.main import main
from guda_lightning.data import Digits, GroupDataModule, load_queries

CONF = Path(__file__).parent.parent / "conf"
YAML = """
attributor:
  class_path: own_attributor.Brightness
  init_args:
    power: 2.0
"""


def test_an_attributor_of_the_user_scores_and_has_a_page(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    (tmp_path / "own.yaml").write_text(YAML)
    arguments = ["attribute", "-c", CONF / "digits.yaml", "-c", tmp_path / "own.yaml", "--run", finished_run]
    assert main(list(map(str, arguments))) == 0
    path = finished_run / "scores" / "brightness-0.parquet"
    table = ScoreTable.load(path)
    assert (table.record.kind, table.record.to_json()["power"]) == ("custom", 2.0)

    data = GroupDataModule(Digits(), limit=64)
    images = data.seen_images(np.arange(64)).flatten(1)
    queries = load_queries(finished_run / "queries", (1, 8, 8)).images.flatten(1)
    for column, members in enumerate(data.grouping.membership().T):
        expected = -((queries.mean(dim=1) - images[members].mean()) ** 2)
        torch.testing.assert_close(table.matrix()[:, column], expected.double(), rtol=1e-4, atol=1e-6)

    capsys.readouterr()
    assert main(list(map(str, arguments))) == 0
    assert capsys.readouterr().out.endswith(f"attribute: {path} is complete, skipped\n")
    assert main(["report", str(finished_run), "--scores", str(path)]) == 0
    assert "brightness" in (finished_run / "report" / "index.html").read_text()
