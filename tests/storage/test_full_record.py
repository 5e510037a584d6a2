"""The record of the full model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from guda_lightning.errors import StoreError
from guda_lightning.storage.data_identity import DataIdentity
from guda_lightning.storage.full_record import FullRecord
from toys import message


@pytest.mark.parametrize(("written", "seed"), [(0, 0), (3, 3), (False, None), (None, None)])
def test_a_training_without_a_seed_has_none(written: object, seed: int | None) -> None:
    record = FullRecord("full", "schedule", {"seed_everything": written}, 12, 1.0, 252)
    assert record.seed is seed  # not False, which equals the oracle's seed 0


@pytest.mark.parametrize(
    ("trainer", "more"),
    [
        ({"max_steps": 12, "max_epochs": -1}, {"steps": 12}),
        ({"max_steps": 12, "max_epochs": 1}, {"steps": 4}),  # an end that is counted in epochs
        ({"max_steps": 12, "max_epochs": -1}, {"steps": 4, "stopped": "EarlyStopping: no better"}),
        ({"max_steps": -1, "max_epochs": 1}, {"steps": 4}),
        ({}, {"steps": 4}),
    ],
)
def test_a_training_that_did_what_its_configuration_says(
    trainer: dict[str, Any], more: dict[str, Any]
) -> None:
    config = {"trainer": trainer}
    record = FullRecord("full", "schedule", config, **more, seconds=1.0, network_evaluations=1)
    record.refuse_unfinished(Path("run/full"))


def test_other_class_labels_than_a_conditional_model_was_trained_with_are_refused(tmp_path: Path) -> None:
    of_before = FullRecord("f", "s", {}, 1, 1.0, 1)
    assert "labels_hash" not in of_before.to_json()
    of_before.refuse_other_data(tmp_path, DataIdentity((1, 8, 8), "d", "g", "labels"))
    file = tmp_path / "record.json"
    file.write_text(FullRecord("f", "s", {}, 1, 1.0, 1, labels_hash="a" * 64).to_json())
    record = FullRecord.from_file(file)
    record.refuse_other_data(tmp_path, DataIdentity((1, 8, 8), "d", "g", "a" * 64))
    for labels, found in (("b" * 64, "b" * 16), (None, None)):
        expected = message(
            f"{tmp_path} was trained on other data",
            f"labels_hash {found} of the configured data",
            f"labels_hash {'a' * 16}",
            "use the data section that the full model was trained with, or another --run",
        )
        with pytest.raises(StoreError, match=expected):
            record.refuse_other_data(tmp_path, DataIdentity((1, 8, 8), "d", "g", labels))


def test_the_record_of_a_dry_run_of_an_earlier_version_is_refused() -> None:
    record = FullRecord("full", "schedule", {"trainer": {"max_steps": 12, "max_epochs": None}}, 1, 1.0, 14)
    expected = message(
        "run/full was trained for fewer steps than its configuration says",
        "1 steps",
        "trainer.max_steps = 12",
        "remove run/full and run guda fit again",
    )
    with pytest.raises(StoreError, match=expected):
        record.refuse_unfinished(Path("run/full"))
