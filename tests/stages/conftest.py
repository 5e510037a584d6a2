"""Run folders in which more has happened than in ``finished_run``, each made once for all workers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from guda_lightning.cli.main import main

CONF = Path(__file__).parents[1] / "conf"
GUIDE = ["guide", "-c", f"{CONF}/digits.yaml", "-c", f"{CONF}/guide.yaml"]
Shared = Callable[[str, Callable[[Path], None]], Path]
Grown = Callable[..., Path]


@pytest.fixture(scope="session")
def grown(shared: Shared) -> Grown:
    """Works in a copy of a run folder, once for all workers.

    ``{run}`` in a command stands for the copy; ``told.txt`` beside it holds what the commands printed.
    """

    def once(name: str, run: Path, *commands: list[str]) -> Path:
        def make(folder: Path) -> None:
            copy = shutil.copytree(run, folder / "tiny")
            with (folder / "told.txt").open("w") as file, redirect_stdout(file):
                for command in commands:
                    words = [word.replace("{run}", str(copy)) for word in command]
                    assert main([*words, "--run", str(copy)]) == 0

        return shared(name, make) / "tiny"

    return once


@pytest.fixture(scope="session")
def _guided_run(_finished_run: Path, grown: Grown) -> Path:
    return grown("guided", _finished_run, GUIDE)


@pytest.fixture
def guided_run(_guided_run: Path, tmp_path: Path) -> Path:
    """A copy of a finished run with guidance in its store."""
    return Path(shutil.copytree(_guided_run, tmp_path / "guided"))


@pytest.fixture
def classified_run(_finished_run: Path, grown: Grown, tmp_path: Path) -> Path:
    """A copy of a finished run with a classifier of the ten digits, and no other posterior."""
    made = grown("classified", _finished_run, [*GUIDE, "--posterior", "classifier"])
    return Path(shutil.copytree(made, tmp_path / "classified"))


@pytest.fixture(scope="session")
def _drawn_run(_finished_run: Path, grown: Grown) -> Path:
    sample = ["sample", "-c", f"{CONF}/digits.yaml", "-c", f"{CONF}/sample.yaml"]
    return grown("drawn", _finished_run, [*sample, "--without", "3, 7"])


@pytest.fixture
def drawn_run(_drawn_run: Path, tmp_path: Path) -> Path:
    """A copy of a finished run with pictures without 3 and without 7."""
    return Path(shutil.copytree(_drawn_run, tmp_path / "drawn"))


@pytest.fixture
def scored(_finished_run: Path, grown: Grown, tmp_path: Path) -> Path:
    """A copy of a finished run whose queries similarity has scored."""
    attribute = ["attribute", "-c", f"{CONF}/digits.yaml", "-c", "attribute/similarity.yaml"]
    return Path(shutil.copytree(grown("scored", _finished_run, attribute), tmp_path / "scored"))
