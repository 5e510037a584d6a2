"""``guda sample --without``: the noise of the queries, drawn from counterfactuals."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from PIL import Image
from safetensors.torch import load_file

from guda_lightning import CounterfactualStore
from guda_lightning.cli.main import main
from guda_lightning.stages import drawing
from guda_lightning.storage.runs import RunFolder
from toys import edit_json

CONF = Path(__file__).parents[1] / "conf"
SHARED = ["-c", f"{CONF}/digits.yaml"]
GROUPS = [str(digit) for digit in range(10)]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def sample(run: Path, *options: object) -> int:
    return main(["sample", *SHARED, "-c", f"{CONF}/sample.yaml", "--run", str(run), *map(str, options)])


def pictures(folder: Path) -> dict[str, bytes]:
    return {path.name: Image.open(path).tobytes() for path in sorted(folder.glob("*.png"))}


def config(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "record.json").read_text())["config"]
    return found


def put_full_model(run: Path, operator: str, *groups: str) -> None:
    """Store counterfactuals that never unlearned: the full model's own weights."""
    store = CounterfactualStore(run / "store")
    weights = UNet2DModel.from_pretrained(run / "full" / "unet", low_cpu_mem_usage=False).state_dict()
    for key in store.select("retrack", 0, groups=groups).values():
        record = replace(store.record(key), operator=operator, files={}, complete=False)
        store.save(weights, record)


def test_each_group_has_a_folder_and_one_cost_comes_first(
    drawn_run: Path, _drawn_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, *rest, radius = _drawn_run.with_name("told.txt").read_text().splitlines()
    assert first.startswith("sample: 2 groups x 5 images x 10 steps: about ")
    assert radius.startswith("sample: The radius of the median query is ")
    assert rest == [f"sample: 5 images in {_drawn_run}/without/retrack/{group}" for group in "37"]
    drawn = [pictures(drawn_run / "without" / "retrack" / group) for group in "37"]
    queries = pictures(drawn_run / "queries")
    assert drawn[0].keys() == drawn[1].keys() == queries.keys()
    assert drawn[0] != drawn[1] and queries not in drawn
    (key,) = CounterfactualStore(drawn_run / "store").select("retrack", 0, groups=["3"]).values()
    record = CounterfactualStore(drawn_run / "store").record(key)
    assert config(drawn_run / "without" / "retrack" / "3") == {
        **config(drawn_run / "queries"),
        "operator": "retrack",
        "counterfactual_seed": 0,
        "without": "3",
        "counterfactual": record.files["model.safetensors"],
        "grouping_hash": record.grouping_hash,
    }
    assert not list((drawn_run / "checkpoints").glob("sample*"))

    assert sample(drawn_run, "--without", "all") == 0
    skipped, cost, *rest = capsys.readouterr().out.splitlines()
    assert skipped == "sample: 2 complete, skipped: 3, 7"
    assert cost.startswith("sample: 8 groups x 5 images x 10 steps: about ")
    written = {path.name for path in (drawn_run / "without" / "retrack").iterdir()}
    assert written == {*GROUPS, "distances.parquet"}
    assert sample(drawn_run, "--without", '["3", "7"]') == 0
    assert capsys.readouterr().out == "sample: 2 complete, skipped: 3, 7\n"


def test_a_counterfactual_that_forgot_nothing_draws_the_queries(finished_run: Path) -> None:
    put_full_model(finished_run, "none", "3", "7")
    assert sample(finished_run, "--without", "3,7", "--operator", "none", "--batch_size", 3) == 0
    for group in "37":
        assert pictures(finished_run / "without" / "none" / group) == pictures(finished_run / "queries")


def test_fewer_pictures_are_the_first_of_the_queries(finished_run: Path, _drawn_run: Path) -> None:
    shutil.rmtree(finished_run / "queries")
    assert sample(finished_run, "--num", 12) == 0
    assert sample(finished_run, "--num", 5, "--without", "3") == 0
    found = pictures(finished_run / "without" / "retrack" / "3")
    assert list(found) == [f"sample-{index:02d}.png" for index in range(5)]  # named as those of the queries
    other = pictures(_drawn_run / "without" / "retrack" / "3")
    assert list(found.values()) == list(other.values())


def test_pictures_do_not_need_queries(finished_run: Path) -> None:
    shutil.rmtree(finished_run / "queries")
    assert sample(finished_run, "--without", "3", "--num", 2) == 0
    assert len(pictures(finished_run / "without" / "retrack" / "3")) == 2


def test_an_interrupted_drawing_goes_on_and_ends_alike(
    finished_run: Path, _drawn_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[list[int]] = []
    draw = drawing.sample

    def interrupted(*arguments: Any, **options: Any) -> torch.Tensor:
        if len(drawn) == 4:  # a batch of the second group was kept
            raise KeyboardInterrupt
        drawn.append(arguments[3])
        return draw(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(drawing, "sample", interrupted)
        assert sample(finished_run, "--without", "3,7") == 130
    assert drawn == [[0, 1], [2, 3], [4], [0, 1]]
    assert [path.name for path in (finished_run / "without" / "retrack").iterdir()] == ["3"]
    kept = finished_run / "checkpoints" / "sample-retrack-7"
    assert load_file(kept / "0.safetensors")["images"].shape == (2, 1, 8, 8)
    assert sample(finished_run, "--without", "3,7") == 0
    for group in "37":
        found = finished_run / "without" / "retrack" / group
        assert pictures(found) == pictures(_drawn_run / "without" / "retrack" / group)
    assert not kept.exists()


@pytest.mark.parametrize(
    ("option", "value", "expected", "fix"),
    [
        ("num", 6, "num = 5 or less", "pass --num 5 or less"),
        ("steps", 9, "steps = 10", "pass --steps 10"),
        ("seed", 1, "seed = 0", "pass --seed 0"),
    ],
)
def test_pictures_that_would_not_stand_beside_the_queries_are_refused(
    finished_run: Path,
    capsys: pytest.CaptureFixture[str],
    option: str,
    value: int,
    expected: str,
    fix: str,
) -> None:
    assert sample(finished_run, "--without", "3", f"--{option}", value) == 2
    captured = capsys.readouterr()
    assert captured.out == ""  # before any work
    assert captured.err == (
        f"error: the pictures would not stand beside the queries of {finished_run}/queries\n"
        f"  found:    {option} = {value}\n"
        f"  expected: {expected}\n"
        f"  fix:      {fix}, or use another --run\n"
    )
    assert not (finished_run / "without").exists()


def test_queries_of_another_full_model_are_refused(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = finished_run / "queries" / "record.json"
    now = json.loads(path.read_text())["config"]["full_hash"]
    edit_json(path, lambda record: record | {"config": {**record["config"], "full_hash": "of another one"}})
    assert sample(finished_run, "--without", "3") == 2
    assert capsys.readouterr().err == (
        f"error: the pictures would not stand beside the queries of {finished_run}/queries\n"
        f"  found:    full_hash = {now}\n"
        "  expected: full_hash = of another one\n"
        "  fix:      draw with the full model of the queries, or use another --run\n"
    )


@pytest.mark.parametrize(
    ("option", "value"), [("operator", "retrack"), ("counterfactual_seed", "0"), ("hparams", "abc")]
)
def test_options_of_counterfactuals_need_groups(
    finished_run: Path, capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    assert sample(finished_run, f"--{option}", value) == 2
    assert capsys.readouterr().err == (
        f"error: {option} is about counterfactuals, and the full model is drawn from\n"
        f"  found:    {option} {value}\n"
        "  expected: groups, or none of these options\n"
        f"  fix:      leave out --{option}, or pass --without GROUPS\n"
    )


def test_a_store_of_two_kinds_asks_which(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put_full_model(finished_run, "retrain", "3")
    assert sample(finished_run, "--without", "3") == 2
    assert capsys.readouterr().err == (
        f"error: {finished_run}/store holds counterfactuals of several operators\n"
        "  found:    retrack, retrain\n"
        "  expected: the name of one operator\n"
        "  fix:      pass --operator with one of them\n"
    )
    assert sample(finished_run, "--without", "3", "--operator", "retrain") == 0
    assert (finished_run / "without" / "retrain" / "3" / "record.json").is_file()


def test_a_counterfactual_that_is_missing_names_the_command(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sample(finished_run, "--without", "3,1+2") == 2
    assert capsys.readouterr().err == (
        f"error: counterfactuals are missing in {finished_run}/store\n"
        "  found:    none of operator retrack, seed 0 for 1+2\n"
        "  expected: one for each of 2 groups\n"
        "  fix:      run guda unlearn with --groups 1+2\n"
    )
    assert sample(finished_run, "--without", "3", "--counterfactual_seed", 5) == 2
    assert capsys.readouterr().err.endswith(
        "  expected: operator retrack, seed 5\n  fix:      run guda unlearn with --groups 3 --seed 5\n"
    )
    assert not (finished_run / "without").exists()


def test_hyper_parameters_are_chosen_and_other_pictures_are_not_overwritten(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = CounterfactualStore(finished_run / "store")
    (key,) = store.select("retrack", 0, groups=["3"]).values()
    weights, record = store.load(key, expect=None)
    other = replace(record, hparams={**record.hparams, "steps": 5}, files={}, complete=False)
    store.save({name: value + 1e-3 for name, value in weights.items()}, other)
    assert sample(finished_run, "--without", "3") == 2
    assert "were made with several sets of hyper-parameters" in capsys.readouterr().err
    assert sample(finished_run, "--without", "3", "--hparams", record.hparams_hash[:8]) == 0
    before = pictures(finished_run / "without" / "retrack" / "3")
    capsys.readouterr()
    assert sample(finished_run, "--without", "3", "--hparams", other.hparams_hash[:8]) == 2
    digest, folder = store.record(other.key).files["model.safetensors"], f"{finished_run}/without/retrack/3"
    assert capsys.readouterr().err == (
        f"error: {folder} was made with another configuration\n"
        f"  found:    counterfactual = {record.files['model.safetensors']}\n"
        f"  expected: counterfactual = {digest}\n"
        f"  fix:      use another --run, restore the configuration, or remove {folder}\n"
    )
    assert pictures(finished_run / "without" / "retrack" / "3") == before


def test_folders_tell_groups_apart_that_would_be_written_alike() -> None:
    run = RunFolder(Path("run"))
    assert run.without_groups("retrack", "3") == Path("run/without/retrack/3")
    long = "a" * 50
    alike = ["3+7", "3-7", "3,7", "Cat", "cat", long, long + "b", "../x", "猫", "犬"]
    folders = {run.without_groups("retrack", name) for name in alike}
    assert len(folders) == len(alike)
    assert {folder.parent for folder in folders} == {Path("run/without/retrack")}


def test_guidance_by_prompts_needs_prompts(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sample(finished_run, "--prompt_guidance", 2) == 2
    assert capsys.readouterr().err == (
        "error: a model without prompts cannot be guided by them\n"
        "  found:    prompt_guidance 2.0\n"
        "  expected: 1, or a text-to-image model\n"
        "  fix:      leave out --prompt_guidance\n"
    )
