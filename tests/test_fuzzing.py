"""A slice of ``make fuzz``: the same inputs every time, a few of each kind."""

from __future__ import annotations

import pytest
import torch

from fuzzing import KINDS, fuzz


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


STAGES = {"sample", "unlearn", "attribute"}  # need a finished run of their own: `make fuzz` alone has them


@pytest.mark.parametrize("name", [name for name in KINDS if name not in STAGES])
def test_mutated_inputs_are_accepted_or_refused(name: str) -> None:
    outcome = fuzz([name], 6 if name in ("configuration", "options") else 20, seed=0)
    assert not outcome.failed
    assert outcome.accepted.total() + outcome.refused.total() >= 6
    assert outcome.refused[name]
