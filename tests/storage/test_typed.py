"""Records whose entries are missing, or of another type than their dataclass says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pytest

from guda_lightning.counterfactuals import CounterfactualRecord
from guda_lightning.errors import StoreError
from guda_lightning.storage.files import read_json, sha256_json
from guda_lightning.storage.full_record import FullRecord
from guda_lightning.storage.run_state import run_state
from guda_lightning.storage.runs import RunFolder
from guda_lightning.storage.typed import fits


@pytest.mark.parametrize(
    ("value", "hint", "fit"),
    [
        (1, int, True),
        (True, int, False),
        (True, float, False),
        (1, float, True),
        (1.5, int, False),
        ("1", int, False),
        (False, bool, True),
        (0, bool, False),
        (None, str | None, True),
        (5, str | None, False),
        (None, None, True),
        ({"a": 1}, Mapping[str, int], True),
        ({"a": "b"}, Mapping[str, int], False),
        ([], Mapping[str, int], False),
        ([1, 2, 3], tuple[int, int, int], True),
        ([1, 2], tuple[int, int, int], False),
        (["a"], tuple[str, ...], True),
        (["a", None], tuple[str, ...], False),
        ("ab", tuple[str, ...], False),
        ([{"a": 1}], list[dict[str, Any]], True),
        ([1], list[dict[str, Any]], False),
        ("a", Literal["a", "b"], True),
        ("c", Literal["a", "b"], False),
        (object(), Any, True),
    ],
)
def test_what_fits_a_type(value: object, hint: Any, fit: bool) -> None:
    assert fits(value, hint) is fit


def message(path: Path, found: str, expected: str, fix: str) -> str:
    return f"{path} is no whole record\n  found:    {found}\n  expected: {expected}\n  fix:      {fix}"


FULL = {
    "full_hash": "a" * 64,
    "schedule_hash": "b" * 64,
    "config": {"trainer": {"max_steps": 5}},
    "steps": 5,
    "seconds": 1.5,
    "network_evaluations": 10,
    "input_shape": [1, 8, 8],
    "complete": True,
    "format": 1,
}


@pytest.mark.parametrize(
    ("name", "value", "found", "expected"),
    [
        ("steps", None, "steps = None", "steps: int"),
        ("steps", "x", "steps = 'x'", "steps: int"),
        ("config", 5, "config = 5", "config: Mapping[str, Any]"),
        ("input_shape", 0, "input_shape = 0", "input_shape: tuple[int, int, int] | None"),
        ("data_hash", -1, "data_hash = -1", "data_hash: str | None"),
        ("versions", [], "versions = []", "versions: Mapping[str, str]"),
    ],
)
def test_a_record_of_the_full_model_with_an_odd_entry(
    name: str, value: object, found: str, expected: str, tmp_path: Path
) -> None:
    path = tmp_path / "full" / "record.json"
    path.parent.mkdir()
    path.write_text(json.dumps({**FULL, name: value}))
    with pytest.raises(StoreError) as error:
        FullRecord.from_file(path)
    assert str(error.value) == message(
        path, found, expected, "restore it, or remove its folder and run guda fit"
    )
    assert run_state(RunFolder(tmp_path)).damaged == (f"{path}: {found}",)


@pytest.mark.parametrize("trainer", [None, [], 5, {"max_steps": "x"}])
def test_a_record_whose_trainer_says_nothing_is_read(trainer: object, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text(json.dumps({**FULL, "config": {"trainer": trainer}}))
    FullRecord.from_file(path).refuse_unfinished(tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "found", "expected"),
    [
        ("operator", None, "operator = None", "operator: str"),
        ("groups", 0, "groups = 0", "groups: tuple[str, ...]"),
        ("groups", [None], "groups = [None]", "groups: tuple[str, ...]"),
        ("full_hash", ..., "no full_hash", "full_hash: str"),
        ("history", {}, "history = {}", "history: list[dict[str, Any]]"),
        ("files", {"a": 5}, "files = {'a': 5}", "files: dict[str, str]"),
        ("files", None, "files = None", "files: dict[str, str]"),
    ],
)
def test_a_record_of_a_counterfactual_with_an_odd_entry(
    name: str, value: object, found: str, expected: str, tmp_path: Path
) -> None:
    record = {
        "operator": "retrack",
        "members_hash": "a",
        "groups": ["3"],
        "seed": 0,
        "hparams": {},
        "full_hash": "b",
        "schedule_hash": "c",
        "grouping_hash": "d",
        "versions": {},
        "seconds": 1.0,
        "steps": 4,
        "network_evaluations": 10,
        "files": {},
        "complete": True,
        "format": 1,
    }
    if value is ...:
        del record[name]
    else:
        record[name] = value
    path = tmp_path / "store" / "retrack-3-0" / "record.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({**record, "sha256": sha256_json(record)}))  # as if it were written so
    with pytest.raises(StoreError) as error:
        CounterfactualRecord.from_file(path)
    fix = "restore the file, or remove its folder and make it again"
    assert str(error.value) == message(path, found, expected, fix)
    run_state(RunFolder(tmp_path)).to_json()  # looks through what is damaged, too


@pytest.mark.parametrize(
    "text", ['{"a": 1e999}', '{"a": -1e999}', '{"a": NaN}', "[" * 100_000, '{"a": ' + "1" * 5000 + "}"]
)
def test_json_that_holds_no_numbers(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(StoreError) as error:
        read_json(tmp_path / "a.json")
    assert str(error.value) == (
        f"{tmp_path}/a.json cannot be read\n  found:    {error.value.found}\n"
        "  expected: a file with one JSON object\n"
        "  fix:      remove it if it is there, and rerun the command that writes it"
    )
    assert str(error.value.found).startswith("broken JSON: ")
