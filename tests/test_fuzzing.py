"""A slice of ``make torture ARGS=fuzz``: the same inputs every time, a few of each kind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fuzzing import KINDS, attempt
from torture.fuzz import fuzz


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


STAGES = {"sample", "unlearn", "attribute"}  # need a finished run of their own: `make torture` alone has them


@pytest.mark.parametrize("name", [name for name in KINDS if name not in STAGES])
def test_mutated_inputs_are_accepted_or_refused(name: str) -> None:
    tally = fuzz([(name, seed) for seed in range(6 if name in ("configuration", "options") else 20)], limit=0)
    assert not tally.failures
    assert tally.counts[name]["refused"]


@pytest.mark.parametrize("name", [name for name in KINDS if name not in STAGES])
def test_inputs_that_nothing_mutates_are_accepted(name: str, tmp_path: Path) -> None:
    whole = replace(KINDS[name], mutate=lambda path, rng: None)
    assert attempt(whole, 0, tmp_path, limit=0) == "accepted"
