"""The record of the full model."""

from __future__ import annotations

import pytest

from guda_lightning.storage.full_record import FullRecord


@pytest.mark.parametrize(("written", "seed"), [(0, 0), (3, 3), (False, None), (None, None)])
def test_a_training_without_a_seed_has_none(written: object, seed: int | None) -> None:
    record = FullRecord("full", "schedule", {"seed_everything": written}, 12, 1.0, 252)
    assert record.seed is seed  # not False, which equals the oracle's seed 0
