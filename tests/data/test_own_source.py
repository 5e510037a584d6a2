"""A source of one's own is one file: a class with ``load``, named in YAML by its class_path."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from guda_lightning.cli.main import main

CONF = Path(__file__).parents[1] / "conf" / "digits.yaml"
SOURCE = '''
from dataclasses import dataclass

import numpy as np
from PIL import Image

from guda_lightning.data import ImageTable, Source


@dataclass(frozen=True)
class Stripes(Source):
    """Horizontal and vertical stripes."""

    count: int = 8

    def load(self) -> ImageTable:
        def read(index: int) -> Image.Image:
            pixels = np.zeros((8, 8), dtype=np.uint8)
            pixels[index % 8] = 255
            return Image.fromarray(pixels if index < self.count else pixels.T.copy())

        return ImageTable(
            ids=tuple(f"stripes/{index}" for index in range(2 * self.count)),
            read=read,
            labels=("horizontal",) * self.count + ("vertical",) * self.count,
            label_names=("horizontal", "vertical"),
        )
'''


def test_a_source_in_a_file_of_its_own_needs_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own_stripes.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    config, run = tmp_path / "stripes.yaml", tmp_path / "run"
    source = {"class_path": "own_stripes.Stripes", "init_args": {"count": 16}}
    data = {"class_path": "guda_lightning.GroupDataModule", "init_args": {"source": source, "limit": None}}
    config.write_text(yaml.safe_dump({"data": data, "trainer": {"max_steps": 2}}))
    try:
        assert main(["fit", "-c", str(CONF), "-c", str(config), "--run", str(run)]) == 0
        assert (run / "full" / "record.json").is_file()
        unlearn = ["unlearn", "-c", str(CONF), "-c", str(config), "--run", str(run)]
        assert main([*unlearn, "--groups", "diagonal"]) == 2
        assert "one of 2 groups: 'horizontal', 'vertical'" in capsys.readouterr().err
    finally:
        sys.modules.pop("own_stripes", None)
