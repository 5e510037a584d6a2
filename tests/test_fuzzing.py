"""A slice of ``make torture ARGS=fuzz``: the same inputs every time, a few of each kind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fuzzing import KINDS, attempt
from torture.fuzz import fuzz
from torture.workshop import Workshop
from warm import Server


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


STAGES = {"sample", "unlearn", "attribute"}  # need a finished run of their own: `make torture` alone has them


@pytest.mark.parametrize("name", [name for name in KINDS if name not in STAGES])
def test_mutated_inputs_are_accepted_or_refused(name: str, tmp_path: Path) -> None:
    found = {}
    for seed in range(6 if name in ("configuration", "options") else 20):
        folder = tmp_path / str(seed)
        folder.mkdir()
        found[seed] = attempt(KINDS[name], seed, folder)
    assert {seed: result for seed, result in found.items() if result not in ("accepted", "refused")} == {}
    assert "refused" in found.values()


@pytest.mark.parametrize("name", [name for name in KINDS if name not in STAGES])
def test_inputs_that_nothing_mutates_are_accepted(name: str, tmp_path: Path) -> None:
    whole = replace(KINDS[name], mutate=lambda path, rng: None)
    assert attempt(whole, 0, tmp_path) == "accepted"


def test_an_input_that_ends_its_process_or_hangs_is_one_failure(warm: Server, tmp_path: Path) -> None:
    """The others are tried all the same."""
    shop = Workshop(warm, tmp_path)
    assert dict(fuzz(shop, [("folder", 0), ("image", 0), ("folder", 1)]).counts) == {
        "folder": {"accepted": 1, "refused": 1},
        "image": {"accepted": 1},
    }
    hung = fuzz(shop, [("folder", 0), ("image", 0)], limit=1e-6)
    assert [failure.partition("\n")[0] for failure in hung.failures] == [
        "make torture ARGS=\"fuzz --at 'folder:0'\"",
        "make torture ARGS=\"fuzz --at 'image:0'\"",
    ]
    assert all("exit status 1\n" in failure for failure in hung.failures)
    assert all("Timeout (0:00:00.000001)!" in failure for failure in hung.failures)
