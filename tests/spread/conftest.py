"""What the tests of spreads share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from spread_place import Place


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # as the tasks: sums come out the same


@pytest.fixture
def place(tmp_path: Path, finished_run: Path) -> Place:
    """A folder to start guda in, with a full model in the run folder ``run``."""
    return Place(tmp_path, finished_run)
