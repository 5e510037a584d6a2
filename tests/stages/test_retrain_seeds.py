"""Seeds that a retraining cannot be seeded with."""

from __future__ import annotations

from pathlib import Path

import pytest

from guda_lightning.cli.main import main

CONF = Path(__file__).parents[1] / "conf"


def test_seeds_of_more_than_32_bits_are_refused_by_name(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["retrain", "-c", f"{CONF}/digits.yaml", "--run", str(finished_run), "--groups", "3"]
    assert main([*words, "--seeds", "0,5000000000"]) == 2
    assert capsys.readouterr().err == (
        "error: the seed of a retraining is out of range\n"
        "  found:    5000000000\n"
        "  expected: 0 <= seed < 2**32\n"
        "  fix:      pass smaller --seeds\n"
    )
    assert not list(finished_run.glob("store/retrain-*"))
