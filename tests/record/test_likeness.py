"""What a replay compares in which unit, and what it must not take for the same."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from guda_lightning.cli import evaluate
from guda_lightning.cli.commands import Stage, find
from guda_lightning.cli.configs import located
from guda_lightning.cli.main import main
from guda_lightning.cli.plan import Plan
from guda_lightning.cli.repeating import parsed
from guda_lightning.cli.stage import parse
from guda_lightning.errors import StoreError
from guda_lightning.stages.likeness import of_records, of_tables, of_weights
from guda_lightning.stages.replayed import Comparison
from guda_lightning.storage.history import Step, moved
from guda_lightning.storage.runs import RunFolder
from guda_lightning.storage.sealed import write_json
from toys import message

Out = pytest.CaptureFixture[str]
CONF = Path(__file__).parents[1] / "conf"


def pair(folder: Path, one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> tuple[Path, Path]:
    files = folder / "one.safetensors", folder / "other.safetensors"
    for file, weights in zip(files, (one, other), strict=True):
        save_file(weights, file)
    return files


def test_what_is_no_number_is_no_likeness(tmp_path: Path) -> None:
    one = {"a": torch.ones(3), "b": torch.ones(3)}
    start = {name: torch.zeros(3) for name in one}
    for name in one:  # in the first tensor, and in a later one
        files = pair(tmp_path, one, {**one, name: torch.tensor([1.0, math.nan, 1.0])})
        for before, after in (files, files[::-1]):
            assert math.isinf(of_weights(before, after, start).distance)
            assert math.isinf(of_weights(before, after, None).distance)
    files = pair(tmp_path, one, {**one, "b": torch.zeros(3)})
    assert of_weights(*files, {**start, "a": torch.tensor([math.nan, 0.0, 0.0])}).distance == 1


def test_where_the_start_is_unknown_every_tensor_has_its_own_scale(tmp_path: Path) -> None:
    """A normalization of ones must not hide that all small weights are others."""
    drawn = [0.05 * torch.rand(100, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    files = pair(tmp_path, *({"norm": torch.ones(4), "weight": one} for one in drawn))
    assert of_weights(*files, None).distance > 0.8
    files = pair(tmp_path, {"bias": torch.zeros(2)}, {"bias": torch.tensor([0.0, 1e-9])})
    assert math.isinf(of_weights(*files, None).distance)


def test_names_that_look_like_hashes_are_names(tmp_path: Path) -> None:
    one, other = tmp_path / "one.json", tmp_path / "other.json"
    for key, changed in (("full_hash", False), ("group", True), ("groups", True)):
        for path, name in ((one, "deadbeef0123"), (other, "deadbeef0124")):
            path.write_text(json.dumps({key: [name] if key == "groups" else name}))
        assert math.isinf(of_records(one, other, "a", "b").distance) is changed, key
    for path, name in ((one, "202401010001"), (other, "202401010002")):
        pd.DataFrame({"query": ["x"], "group": [name], "value": [1.0]}).to_parquet(path)
    assert math.isinf(of_tables(one, other).distance)


def test_paths_of_the_run_are_moved_however_they_are_written(tmp_path: Path) -> None:
    for run in ("runs/a", "./runs/a", "runs//a/"):
        assert moved(["runs/a/queries", "./runs/a/", "runs/ab", "", "x"], run, "/there") == [
            *("/there/queries", "/there", "runs/ab", "", "x")
        ]
    config = {"run": "a", "operator": "a", "trainer": {"default_root_dir": "a"}, "start": "a/full"}
    assert moved(config, "a", "/there") == {
        **{"run": "/there", "operator": "a", "trainer": {"default_root_dir": "/there"}},
        "start": "/there/full",
    }
    root = tmp_path / "runs" / "a"
    plan, step = Plan(RunFolder(root), RunFolder(Path("/there")), {}, {}, ()), Step("evaluate", "runs/a", ())
    given = ("./runs/a", "--scores=runs/a/scores/x.parquet", f"{root}/scores/y.parquet", "--json")
    assert [plan.moved_argument(one, step) for one in given] == [
        *("/there", "--scores=/there/scores/x.parquet", "/there/scores/y.parquet", "--json")
    ]


def test_names_of_groups_in_an_evaluation_are_no_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNS", "/there")
    step = evaluate._step(
        Path("/there/a"), ("$RUNS/a", "--calibrate", "ke$ha", "--scores", "$RUNS/x.parquet")
    )
    assert step.arguments == ("/there/a", "--calibrate", "ke$ha", "--scores", "/there/x.parquet")


def test_a_group_that_is_called_as_the_run_folder_stays_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = find("retrain")
    assert isinstance(command, Stage)
    given = ["-c", f"{CONF}/digits.yaml", "--run", "demo", "--groups", "demo"]
    step = Step("retrain", "demo", (), parse(command, located(given)).values())
    plan = Plan(RunFolder(Path("demo")), RunFolder(tmp_path / "into"), {}, {}, ())
    config = parsed(plan, "0001-x.json", step, tmp_path).config
    assert (config.groups, config.run) == ("demo", str(tmp_path / "into"))


def test_a_damaged_file_of_the_run_differs(tmp_path: Path) -> None:
    """What its reader raises may derive from nothing but ``Exception``, at the end of hours of replay."""
    run, into = (RunFolder(tmp_path / name) for name in ("run", "into"))
    for folder in (run, into):
        folder.store.mkdir(parents=True)
        save_file({"a": torch.ones(3)}, folder.store / "x.safetensors")
        Image.new("RGB", (4, 4)).save(folder.store / "x.png")
        pd.DataFrame({"value": [1.0]}).to_parquet(folder.store / "x.parquet")
        (folder.store / "x.json").write_text("{}")
    for path in run.store.iterdir():
        content = path.read_bytes()
        damaged = [content[: len(content) // 2]]
        if path.suffix == ".safetensors":  # the length of its header
            damaged.append(content[:3] + b"\1" + content[4:])
        if path.suffix == ".png":  # a SyntaxError
            damaged.append(content.replace(b"IHDR", b"IHDQ"))
        for one in damaged:
            path.write_bytes(one)
            comparison = Comparison(run, into, 0.1, [], {})
            found = {each.file: each for each in comparison.files()}[f"store/{path.name}"]
            assert found.outcome == "differs" and found.reason.startswith("unreadable: "), found
        path.write_bytes(content)


def test_a_retrained_model_is_compared_by_what_its_own_training_moved(finished_run: Path) -> None:
    assert main(["retrain", "-c", f"{CONF}/digits.yaml", "--run", str(finished_run), "--groups", "3"]) == 0
    into = Path(shutil.copytree(finished_run, finished_run.with_name("again")))
    (path,) = into.glob("store/retrain-*/model.safetensors")
    weights, name = load_file(path), path.relative_to(into).as_posix()
    key = max(weights, key=lambda one: weights[one].numel())
    save_file({**weights, key: weights[key] + 0.01}, path)
    comparison = Comparison(RunFolder(finished_run), RunFolder(into), 0.1, [name], {})
    found = {one.file: one for one in comparison.files()}[name]
    assert found.unit == "the largest change of a weight by training"
    assert found.outcome == "differs"  # twelve steps hardly move more than that


def test_a_replay_that_compares_nothing_shows_nothing(finished_run: Path, capsys: Out) -> None:
    shutil.rmtree(finished_run / "queries")
    assert main(["replay", str(finished_run), "--stages", "sample"]) == 1
    said = capsys.readouterr().out
    assert "  only in the replay: queries/metadata.jsonl and " in said
    assert said.endswith("replay: nothing was compared, so nothing is shown\n")
    result = json.loads((finished_run.with_name("tiny-replay") / "replay.json").read_text("utf-8"))
    assert "queries/sample-0.png" in result["only_in_replay"]


def test_a_file_where_the_history_belongs_is_refused_before_work(tmp_path: Path, capsys: Out) -> None:
    (tmp_path / "history").write_text("mine")
    assert main(["fit", "-c", f"{CONF}/digits.yaml", "--run", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'history'} is a file\n")
    assert not (tmp_path / "full").exists()


def test_an_entry_of_the_history_that_is_of_another_type(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    path = Step("fit", "a", ()).save(run)
    write_json(path, {**Step("fit", "a", ()).to_json(), "format": 1, "arguments": 5})
    expected = message(
        f"{path} is no whole record",
        "arguments = 5",
        "arguments: tuple[str, ...]",
        "restore the file; without it, nothing tells how this run was made",
    )
    with pytest.raises(StoreError, match=expected):
        Step.load(path)
