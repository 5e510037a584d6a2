from __future__ import annotations

import gc
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from guda_lightning.counterfactuals import CounterfactualKey, CounterfactualRecord, CounterfactualStore
from guda_lightning.errors import ConfigError, NumericsError, StoreError
from guda_lightning.storage import stored
from guda_lightning.storage.files import sha256_file, sha256_json
from guda_lightning.storage.provenance import Provenance
from warm import Server

RECORD = CounterfactualRecord(
    operator="retrack",
    groups=("3",),
    seed=0,
    hparams={"lr": 1e-4, "objective": {"class": "ReTrack", "weight": 0.03}},
    full_hash="f" * 64,
    grouping_hash="a" * 64,
    members_hash="b" * 64,
    schedule_hash="c" * 64,
    history=[{"group": "3", "step": 10, "own": 1.5, "other": 0.25}],
    versions={"torch": "2.13.0"},
    seconds=12.5,
    steps=60,
    network_evaluations=7680,
)
KEY = RECORD.key
MADE_FROM = Provenance("f" * 64, "c" * 64, "a" * 64)


def weights(value: float = 1.0) -> dict[str, Tensor]:
    return {
        "conv.weight": torch.full((3, 2), value),
        "steps": torch.tensor(5),
        "half": torch.ones(2).bfloat16(),
    }


def message(problem: str, found: str, expected: str, fix: str) -> str:
    return "^" + re.escape(f"{problem}\n  found:    {found}\n  expected: {expected}\n  fix:      {fix}") + "$"


@pytest.fixture
def store(tmp_path: Path) -> CounterfactualStore:
    return CounterfactualStore(tmp_path / "run" / "store")


# keys


def test_a_key_is_a_set_of_groups() -> None:
    assert CounterfactualKey("retrack", ("3",), 0, sha256_json(RECORD.hparams)) == KEY
    assert CounterfactualKey("esd", ("b", "a", "b"), 1, "h") == CounterfactualKey("esd", ("a", "b"), 1, "h")
    expected = message(
        "a counterfactual without groups is the full model",
        "no groups",
        "the name of at least one group",
        "name the groups that it has to forget",
    )
    with pytest.raises(ConfigError, match=expected):
        CounterfactualKey("esd", (), 0, "h")


keys = st.builds(
    CounterfactualKey,
    st.text(max_size=60),
    st.lists(st.text(max_size=60), min_size=1, max_size=4).map(tuple),
    st.integers(0, 3),
    st.text(max_size=3),
)


@settings(deadline=None)  # the machine may be busy
@given(keys, keys)
def test_folder_names_are_safe_and_tell_keys_apart(one: CounterfactualKey, other: CounterfactualKey) -> None:
    assert re.fullmatch(r"[a-z0-9_][a-z0-9._-]{0,100}", one.folder_name)
    assert (one.folder_name.lower() == other.folder_name.lower()) == (one == other)


def test_folder_names_are_readable_and_stay_the_same() -> None:
    key = CounterfactualKey("retrack", ("Van Gogh", "../Monet"), 0, "h")
    assert key.folder_name == f"retrack-monet-van-gogh-{key.folder_name[-12:]}"
    canonical = '{"groups":["../Monet","Van Gogh"],"hparams_hash":"h","operator":"retrack","seed":0}'
    assert key.folder_name[-12:] == sha256_json(json.loads(canonical))[:12]


# save and load


def test_a_record_of_before_fits_any_image_shape(store: CounterfactualStore) -> None:
    path = store.save(weights(), RECORD)
    assert "input_shape" not in json.loads((path / "record.json").read_text())
    record = store.check(KEY, expect=replace(MADE_FROM, input_shape=(1, 8, 8)))
    assert record.input_shape is None


def test_round_trip(store: CounterfactualStore) -> None:
    assert not store.exists(KEY) and not store.holds(KEY, MADE_FROM)
    assert store.records() == []
    path = store.save(weights(), RECORD)
    assert path == store.path(KEY) == store.root / KEY.folder_name
    assert store.exists(KEY)
    loaded, record = store.load(KEY, expect=MADE_FROM)
    assert loaded.keys() == weights().keys()
    for name, tensor in weights().items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)
    assert record == replace(
        RECORD, files={"model.safetensors": sha256_file(path / "model.safetensors")}, complete=True
    )
    assert store.record(KEY) == store.check(KEY, expect=MADE_FROM) == record
    assert store.records() == [record]
    assert sorted(os.listdir(path)) == ["model.safetensors", "record.json"]
    assert os.listdir(store.root) == [path.name]


def test_the_files_are_plain(store: CounterfactualStore) -> None:
    path = store.save(weights(), RECORD)
    value = json.loads((path / "record.json").read_text())
    assert value["hparams_hash"] == KEY.hparams_hash
    assert (value["groups"], value["seed"], value["complete"], value["format"]) == (["3"], 0, True, 1)
    assert torch.equal(load_file(path / "model.safetensors")["conv.weight"], torch.ones(3, 2))
    # Others may read a shared store: safetensors alone would keep the weights from them.
    (path / "plain").touch()
    for name in ("model.safetensors", "record.json"):  # safetensors itself lets the owner alone read
        assert (path / name).stat().st_mode == (path / "plain").stat().st_mode


def test_a_real_network_with_tied_and_strided_weights(store: CounterfactualStore) -> None:
    network = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    network[1].weight = network[0].weight
    state = {**network.state_dict(), "strided": torch.arange(6.0).view(2, 3).t()}
    store.save(state, RECORD)
    loaded, _ = store.load(KEY, expect=None)
    assert torch.equal(loaded.pop("strided"), state["strided"])
    network.load_state_dict(loaded)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in network.state_dict().items())


def test_saving_again_replaces(store: CounterfactualStore) -> None:
    store.save(weights(1), RECORD)
    store.save(weights(2), replace(RECORD, seconds=1.0))
    loaded, record = store.load(KEY, expect=MADE_FROM)
    assert loaded["conv.weight"][0, 0] == 2
    assert record.seconds == 1.0
    assert len(os.listdir(store.root)) == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_not_stored(store: CounterfactualStore, bad: float) -> None:
    expected = message(
        "the counterfactual 'retrack' without 3 (seed 0) has weights that are not numbers",
        "NaN or infinity in conv.weight",
        "finite weights",
        "make it again with a lower learning rate, or a lower forget_weight of its objective",
    )
    with pytest.raises(NumericsError, match=expected):
        store.save(weights(bad), RECORD)
    assert not store.root.exists()


@pytest.mark.parametrize(
    ("operator", "groups", "fix"),
    [
        ("retrack", ("3",), "run guda unlearn with --groups 3 --seed 2"),
        ("retrain", ("3",), "run guda retrain with --groups 3 --seeds 2"),
        ("esd", ("Van Gogh", "Monet"), "run guda unlearn with --groups 'Monet,Van Gogh' --seed 2"),
    ],
)
def test_a_missing_one_names_the_command(
    store: CounterfactualStore, operator: str, groups: tuple[str, ...], fix: str
) -> None:
    key = CounterfactualKey(operator, groups, 2, "h")
    expected = message(
        f"the counterfactual '{operator}' without {', '.join(sorted(groups))} (seed 2) is not in the store",
        f"no folder {store.path(key)}",
        "a folder with weights and record",
        fix,
    )
    with pytest.raises(StoreError, match=expected):
        store.load(key, expect=None)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("full_hash", "full model"),
        ("grouping_hash", "grouping"),
        ("schedule_hash", "noise schedule"),
    ],
)
def test_one_made_from_something_else_is_refused(store: CounterfactualStore, name: str, words: str) -> None:
    path = store.save(weights(), RECORD)
    expected = message(
        f"{path}/record.json: the counterfactual 'retrack' without 3 (seed 0) was made from another {words}",
        f"{name} {getattr(RECORD, name)}",
        f"{name} other",
        f"use the {words} it was made from, or remove {path} and run guda unlearn with --groups 3",
    )
    for read in (store.load, store.check):
        with pytest.raises(StoreError, match=expected):
            read(KEY, expect=replace(MADE_FROM, **{name: "other"}))


# damage


def flip(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize("damage", [flip, lambda data: data[:-8], lambda data: data[:3], lambda data: b""])
def test_damaged_weights_are_refused(store: CounterfactualStore, damage: Any) -> None:
    path = store.save(weights(), RECORD)
    file = path / "model.safetensors"
    written = sha256_file(file)
    file.write_bytes(damage(file.read_bytes()))
    fix = f"remove {path} and run guda unlearn with --groups 3"
    expected = message(f"{file} is damaged", f"sha256 {sha256_file(file)}", f"sha256 {written}", fix)
    with pytest.raises(StoreError, match=expected):
        store.load(KEY, expect=MADE_FROM)
    file.unlink()
    with pytest.raises(
        StoreError, match=message(f"{file} is damaged", "no such file", f"sha256 {written}", fix)
    ):
        store.load(KEY, expect=MADE_FROM)


@pytest.mark.parametrize(
    ("name", "value"), [("full_hash", "e" * 64), ("seconds", 1), ("hparams", {}), ("extra", 1)]
)
def test_a_tampered_record_is_refused(store: CounterfactualStore, name: str, value: object) -> None:
    file = store.save(weights(), RECORD) / "record.json"
    record = json.loads(file.read_text())
    file.write_text(json.dumps({**record, name: value}))
    written = record["seal"].removeprefix("guda-seal-")
    empty = file.read_text().replace(written, "0" * 64)
    expected = message(
        f"{file} is damaged",
        f"contents with sha256 {hashlib.sha256(empty.encode()).hexdigest()[:16]}",
        f"contents with sha256 {written[:16]}, its seal",
        "restore the file, or remove its folder and make it again",
    )
    reads = (lambda: store.load(KEY, expect=MADE_FROM), lambda: store.record(KEY), store.records)
    for read in (*reads, lambda: store.holds(KEY, MADE_FROM)):
        with pytest.raises(StoreError, match=expected):
            read()
    assert not store.exists(KEY)


def test_a_record_of_an_earlier_version_holds_its_own_hash(store: CounterfactualStore) -> None:
    file = store.save(weights(), RECORD) / "record.json"
    record = {key: value for key, value in json.loads(file.read_text()).items() if key != "seal"}
    file.write_text(json.dumps({**record, "sha256": sha256_json(record)}))
    assert store.record(KEY).files
    changed = {**record, "seconds": 7}
    file.write_text(json.dumps({**changed, "sha256": sha256_json(record)}))
    expected = message(
        f"{file} was changed after it was written",
        f"contents with sha256 {sha256_json(changed)}",
        f"contents with sha256 {sha256_json(record)}",
        "restore the file, or remove its folder and make it again",
    )
    with pytest.raises(StoreError, match=expected):
        store.record(KEY)


def test_a_half_written_record_is_refused_and_made_again(store: CounterfactualStore) -> None:
    file = store.save(weights(), RECORD) / "record.json"
    file.write_text(file.read_text()[:40])
    assert not store.exists(KEY)
    with pytest.raises(
        StoreError, match=f"^{re.escape(str(file))} cannot be read\n  found:    broken JSON: "
    ):
        store.load(KEY, expect=MADE_FROM)
    file.unlink()
    with pytest.raises(StoreError, match=f"^{re.escape(str(file))} cannot be read\n  found:    No such file"):
        store.load(KEY, expect=MADE_FROM)
    store.save(weights(), RECORD)
    assert store.exists(KEY)


def test_another_format_is_refused(store: CounterfactualStore) -> None:
    file = store.save(weights(), RECORD) / "record.json"
    file.write_text(file.read_text().replace('"format": 1', '"format": 2'))
    expected = message(
        f"{file} is of another format",
        "2",
        "1",
        "use the version of guda-lightning that wrote it, or remove its folder and make it again",
    )
    for read in (lambda: store.load(KEY, expect=None), lambda: store.holds(KEY, MADE_FROM)):
        with pytest.raises(StoreError, match=expected):
            read()  # hours of a later version are not made again in its place


@pytest.mark.parametrize("complete", [True, False])
def test_a_record_in_another_folder_or_incomplete_is_refused(
    store: CounterfactualStore, complete: bool
) -> None:
    path = store.save(weights(), RECORD)
    if complete:
        path = path.rename(store.root / "copy")
    else:
        (path / "record.json").write_text(RECORD.to_json())
    expected = message(
        f"{path / 'record.json'} does not belong in its folder",
        f"the {'' if complete else 'in'}complete record of {KEY.folder_name}",
        f"the complete record of {path.name}",
        f"remove {path}, or give it back its name",
    )
    with pytest.raises(StoreError, match=expected):
        store.records()
    assert not store.exists(KEY)


def test_other_things_in_the_folder_do_not_count(store: CounterfactualStore) -> None:
    store.save(weights(), RECORD)
    shutil.copytree(store.path(KEY), store.root / ".retrack-3.0123.tmp")
    (store.root / "notes").mkdir()
    (store.root / "README.md").touch()
    assert [record.key for record in store.records()] == [KEY]


def test_the_search_for_cycles_goes_on_after_records_were_read(store: CounterfactualStore) -> None:
    folder = store.save(weights(), RECORD)
    store.records()
    assert gc.isenabled()
    (folder / "record.json").write_text("{}")
    with pytest.raises(StoreError):
        store.records()
    assert gc.isenabled()


# interruptions, races and full disks, with real processes


def save(root: Path, value: float, go: Path) -> None:
    """The program of a process that stops in the middle of saving, until a file is there."""
    key = CounterfactualKey("retrack", ("3",), 0, sha256_json({"lr": 1e-4}))
    made_from, cost = Provenance("f", "s", "g"), {"seconds": value, "steps": 1, "network_evaluations": 1}
    record = CounterfactualRecord.of(key, {"lr": 1e-4}, made_from, members_hash="m", **cost)

    def hashed(path: Path) -> str:
        print("ready")  # the weights are there, the record is not
        while not go.exists():
            time.sleep(0.001)
        return sha256_file(path)

    stored.sha256_file = hashed
    CounterfactualStore(root).save({"w": torch.full((1000, 1000), value)}, record)


SAVED = CounterfactualKey("retrack", ("3",), 0, sha256_json({"lr": 1e-4}))


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGINT])
def test_killed_in_mid_write_nothing_shows_and_a_rerun_completes(
    store: CounterfactualStore, signal_number: int, warm: Server, tmp_path: Path
) -> None:
    with warm.process(tmp_path / "log.txt", save, store.root, 1.0, tmp_path / "never") as process:
        process.until("ready")
        os.kill(process.pid, signal_number)
        assert process.wait() == -signal_number
    left = os.listdir(store.root)
    assert left == [] if signal_number == signal.SIGINT else [name[0] for name in left] == ["."]
    assert not store.exists(SAVED)
    assert store.records() == []
    store.save({"w": torch.zeros(2)}, replace(RECORD, hparams={"lr": 1e-4}))
    assert store.exists(SAVED)


def test_two_processes_save_the_same_key_at_once(
    store: CounterfactualStore, warm: Server, tmp_path: Path
) -> None:
    go, logs = tmp_path / "go", (tmp_path / "1.txt", tmp_path / "2.txt")
    with (
        warm.process(logs[0], save, store.root, 1.0, go) as one,
        warm.process(logs[1], save, store.root, 2.0, go) as other,
    ):
        one.until("ready")
        other.until("ready")
        go.touch()
        assert (one.wait(), other.wait()) == (0, 0)
    loaded, record = store.load(SAVED, expect=Provenance("f", "s", "g"))
    assert record.seconds in (1.0, 2.0)
    assert torch.equal(
        loaded["w"], torch.full((1000, 1000), record.seconds)
    )  # weights and record of one process
    assert os.listdir(store.root) == [SAVED.folder_name]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"a full disk needs the right to mount a tmpfs: {mounted.stderr.decode().strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_keeps_finished_work(small_disk: Path) -> None:
    store = CounterfactualStore(small_disk)
    store.save(weights(), RECORD)
    second = replace(RECORD, groups=("4",))
    expected = (
        f"^the disk is full: {re.escape(str(store.path(second.key)))} was not written\n"
        "  found:    [0-9]+ bytes free\n"
        "  expected: room for the whole folder\n"
        f"  fix:      free space on the disk that holds {re.escape(str(small_disk))} "
        "and rerun; finished work is kept$"
    )
    with pytest.raises(StoreError, match=expected):
        store.save({"w": torch.zeros(1_000_000)}, second)
    assert [record.key for record in store.records()] == [KEY]
    assert os.listdir(small_disk) == [KEY.folder_name]
    store.load(KEY, expect=MADE_FROM)


# select


def fill(store: CounterfactualStore, groups: str, **changes: Any) -> None:
    for group in groups:
        store.save(weights(), replace(RECORD, groups=(group,), **changes))


def test_select_finds_one_per_group(store: CounterfactualStore) -> None:
    fill(store, "201")
    fill(store, "01", seed=1)
    fill(store, "01", operator="esd")
    store.save(weights(), replace(RECORD, groups=("0", "1")))
    assert store.select("retrack", 0) == {g: replace(RECORD, groups=(g,)).key for g in "012"}
    assert list(store.select("retrack", 0)) == ["0", "1", "2"]
    assert list(store.select("retrack", 0, groups=["2", "0"])) == ["2", "0"]
    assert store.select("esd", 0, groups=["1"]) == {"1": replace(RECORD, operator="esd", groups=("1",)).key}


def test_select_names_missing_groups(store: CounterfactualStore) -> None:
    fill(store, "01")
    expected = message(
        f"counterfactuals are missing in {store.root}",
        "none of operator retrack, seed 0 for Van Gogh, 7",
        "one for each of 3 groups",
        "run guda unlearn with --groups 'Van Gogh,7'",
    )
    with pytest.raises(StoreError, match=expected):
        store.select("retrack", 0, groups=["Van Gogh", "1", "7"])


def test_select_names_what_is_there(store: CounterfactualStore) -> None:
    problem, digest = f"no counterfactual in {store.root} fits", KEY.hparams_hash[:8]
    empty = message(problem, "an empty store", "operator esd, seed 1", "run guda unlearn with --seed 1")
    with pytest.raises(StoreError, match=empty):
        store.select("esd", 1)
    fill(store, "01")
    there = f"operator retrack, seed 0, hyper-parameters {digest}"
    wanted = "operator retrack, seed 0, hyper-parameters zz"
    with pytest.raises(StoreError, match=message(problem, there, wanted, "run guda unlearn with --groups 0")):
        store.select("retrack", 0, hparams="zz", groups=["0"])
    expected = message(
        f"no counterfactual in {store.root} was made by retrian",
        "those of retrack",
        "operator retrian",
        "use retrack, or run guda unlearn with --groups 0",
    )
    with pytest.raises(StoreError, match=expected):
        store.select("retrian", 0, groups=["0"])


@pytest.mark.parametrize("there", ["an empty store", "those of retrack"])
def test_an_operator_that_is_a_preset_of_attribute_is_answered_with_its_file(
    store: CounterfactualStore, there: str
) -> None:
    if there == "those of retrack":
        fill(store, "0")
    problem = f"no counterfactual in {store.root} " + ("fits" if "empty" in there else "was made by das")
    wanted = "operator das" + (", seed 0" if "empty" in there else "")
    fix = "pass -c attribute/das.yaml instead of --operator das"
    with pytest.raises(StoreError, match=message(problem, there, wanted, fix)):
        store.select("das", 0)
    with pytest.raises(StoreError, match=r"run guda unlearn$"):  # elbo.yaml says how counterfactuals score
        store.select("elbo", 0)


def test_select_refuses_to_mix_hyper_parameters(store: CounterfactualStore) -> None:
    other = {"lr": 3e-4, "objective": {"class": "ReTrack", "weight": 0.03, "cap": 1}}
    fill(store, "01")
    fill(store, "2", hparams=other)  # no group is there twice, and still they do not go together
    first, second = KEY.hparams_hash[:8], sha256_json(other)[:8]
    lines = sorted(
        [
            f"{first} (2 groups: lr=0.0001, objective.cap=unset)",
            f"{second} (1 groups: lr=0.0003, objective.cap=1)",
        ]
    )
    expected = message(
        f"counterfactuals in {store.root} were made with several sets of hyper-parameters",
        "; ".join(lines),
        "one set of hyper-parameters",
        "pass --hparams, in Python hparams=..., with the first digits of one hash",
    )
    with pytest.raises(StoreError, match=expected):
        store.select("retrack", 0)
    assert list(store.select("retrack", 0, hparams=first)) == ["0", "1"]
    assert list(store.select("retrack", 0, hparams=second)) == ["2"]
    assert list(store.select("retrack", 0, groups=["0", "1"])) == ["0", "1"]


def test_a_classifier_among_them_is_none_of_them(store: CounterfactualStore) -> None:
    """As version 0.1.0 stored them: neither an operator nor a counterfactual of any group."""
    fill(store, "01")
    store.save(weights(), replace(RECORD, operator="guidance", groups=("0", "1")))
    assert store.operators() == ["retrack"]
    assert list(store.select(None, 0)) == ["0", "1"]
