"""A small run that was made by commands, and so has a history."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from guda_lightning.cli.main import main

CONF = Path(__file__).parents[1] / "conf"
GROUPS = ("3", "7")


@pytest.fixture(scope="session")
def _recorded_run(shared: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    def make(folder: Path) -> None:
        every = ["-c", f"{CONF}/digits.yaml", "--run", str(folder / "tiny")]
        assert main(["fit", *every]) == 0
        for stage in ("sample", "unlearn", "attribute"):
            groups = [] if stage == "sample" else ["--groups", ",".join(GROUPS)]
            assert main([stage, *every, "-c", f"{CONF}/{stage}.yaml", *groups]) == 0

    return shared("recorded", make) / "tiny"


@pytest.fixture
def recorded_run(_recorded_run: Path, tmp_path: Path) -> Path:
    """A copy of a run folder of two groups, with the history of what made it."""
    return Path(shutil.copytree(_recorded_run, tmp_path / _recorded_run.name))
