"""A slice of ``make torture``: the same few moments, damages and surroundings every time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from torture.contents import contents
from torture.damage import Damage, damage, damages
from torture.kills import Kill, kills
from torture.programs import import_everything
from torture.readers import readers_of
from torture.story import STORY
from torture.surroundings import surroundings
from torture.workshop import Workshop
from warm import Server

import_everything()  # before the server is forked
SLICE = tuple(step for step in STORY if step.name in ("fit", "sample", "unlearn", "attribute", "report"))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def shop(shared: Callable[[str, Callable[[Path], None]], Path], warm: Server) -> Workshop:
    """The short story, told once for all workers."""

    def make(folder: Path) -> None:
        _ = Workshop(warm, folder, SLICE).finished

    return Workshop(warm, shared("torture", make), SLICE)
