"""RUN/history and ``guda replay``: a run is made again from its record; what comes out otherwise is told."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from guda_lightning import ScoreTable
from guda_lightning.cli import plan as planning
from guda_lightning.cli.commands import Stage, find
from guda_lightning.cli.configs import located, shipped
from guda_lightning.cli.main import main
from guda_lightning.cli.plan import Plan
from guda_lightning.cli.repeating import parsed
from guda_lightning.cli.stage import parse
from guda_lightning.errors import StoreError
from guda_lightning.scores.kinds import Custom
from guda_lightning.scores.record import ScoreRecord
from guda_lightning.stages.likeness import of_pictures, of_records, of_tables, of_weights
from guda_lightning.storage.files import sha256_file
from guda_lightning.storage.history import Step, moved, steps_of
from guda_lightning.storage.runs import RunFolder
from guda_lightning.storage.sealed import write_json
from toys import message

Out = pytest.CaptureFixture[str]
CONF = Path(__file__).parents[1] / "conf"


def result(into: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((into / "replay.json").read_text("utf-8"))
    return found


def outcomes(into: Path) -> dict[str, str]:
    return {one["file"]: one["outcome"] for one in result(into)["files"]}


def record_instead(run: Path, stage: str, **config: Any) -> None:
    """Let RUN/history say that a stage was run with other options."""
    for name, step in steps_of(RunFolder(run)).items():
        if step.stage == stage:
            (run / "history" / name).unlink()
            assert step.config is not None
            other = {**step.config, **config}
            replace(step, config=other).save(RunFolder(run)).rename(run / "history" / name)


def test_history_says_what_was_run_and_what_it_wrote(finished_run: Path) -> None:
    steps = steps_of(RunFolder(finished_run))
    assert [name.rpartition("-")[0] for name in steps] == [
        *("0001-fit", "0002-sample", "0003-unlearn", "0004-attribute")
    ]
    fit, sample, unlearn, attribute = steps.values()
    assert fit.config is not None and fit.config["trainer"]["max_steps"] == 12
    assert "full/record.json" in fit.files and all(file.startswith("full/") for file in fit.files)
    assert set(sample.files) == {f"queries/{path.name}" for path in (finished_run / "queries").iterdir()}
    assert {file.partition("/")[0] for file in unlearn.files} == {"store"}
    assert "scores/retrack-0.parquet" in attribute.files and "examples.safetensors" in attribute.files
    assert unlearn.arguments[-2:] == ("-c", f"{CONF}/unlearn.yaml")
    assert fit.environment["threads"] == 1 and fit.environment["versions"]["torch"]


def test_what_is_complete_is_not_noted_again_but_what_is_not_noted_is(finished_run: Path) -> None:
    run, history = RunFolder(finished_run), finished_run / "history"
    before = sorted(path.name for path in history.iterdir())
    sample = ["sample", "-c", f"{CONF}/digits.yaml", "-c", f"{CONF}/sample.yaml", "--run", str(finished_run)]
    assert main(sample) == 0
    assert sorted(path.name for path in history.iterdir()) == before
    assert main([*sample, "--batch_size", "5"]) == 0  # which changes no image
    assert sorted(path.name for path in history.iterdir()) == before
    next(history.glob("0002-*")).unlink()  # as where a kill came between, or an earlier version made it
    assert main(sample) == 0
    noted = [step for name, step in steps_of(run).items() if name.startswith("0005-sample-")]
    assert [step.files for step in noted] == [()]


def test_a_fit_that_is_repeated_after_the_history_was_lost_is_noted(finished_run: Path, capsys: Out) -> None:
    run, fit = RunFolder(finished_run), ["fit", "-c", f"{CONF}/digits.yaml", "--run", str(finished_run)]
    assert main(fit) == 0  # which leaves a stamp
    shutil.rmtree(run.history)
    assert main(fit) == 0
    assert capsys.readouterr().out.count("complete, skipped") == 2
    (step,) = steps_of(run).values()
    assert (step.stage, step.files) == ("fit", ())
    plan = Plan.of(run, RunFolder(finished_run.with_name("replay")), None, ())
    assert plan.copied == {}  # the full model is made again, too


def test_a_complete_fit_is_not_said_to_be_where_its_model_is_damaged(finished_run: Path, capsys: Out) -> None:
    fit = ["fit", "-c", f"{CONF}/digits.yaml", "--run", str(finished_run)]
    weights = finished_run / "full" / "unet" / "diffusion_pytorch_model.safetensors"
    before, content = sha256_file(weights)[:16], bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    assert main(fit) == 2
    out, err = capsys.readouterr()
    assert "complete" not in out
    assert err == (
        f"error: {weights} is damaged\n"
        f"  found:    contents with sha256 {sha256_file(weights)[:16]}\n"
        f"  expected: contents with sha256 {before}, as {finished_run}/full/seal.json says\n"
        f"  fix:      restore it, or remove {finished_run}/full and run guda fit again\n"
    )


def test_an_edited_record_is_refused(finished_run: Path, capsys: Out) -> None:
    path = next((finished_run / "history").glob("0001-*"))
    path.write_text(path.read_text().replace('"max_steps": 12', '"max_steps": 13'))
    assert main(["replay", str(finished_run)]) == 2
    assert f"{path} is damaged" in capsys.readouterr().err
    assert not finished_run.with_name("tiny-replay").exists()


def test_a_replay_on_the_same_machine_differs_in_nothing(finished_run: Path, capsys: Out) -> None:
    """All but unlearning, which takes ten times as long: the torture test below has that."""
    into, replay = finished_run.with_name("tiny-replay"), ["replay", str(finished_run)]
    replay += ["--stages", "fit,sample,retrain,attribute"]
    assert main(["retrain", "-c", f"{CONF}/digits.yaml", "--run", str(finished_run), "--groups", "3"]) == 0
    assert main(replay) == 0
    found = outcomes(into)
    assert set(found.values()) == {"identical", "not replayed"}
    apart = {name for name, one in found.items() if one == "not replayed"}
    others = [name for name in apart if not name.startswith("store/retrack-") and "seal.json" not in name]
    assert {name.rpartition("/")[0] for name in others} == {"report", "scores/costs"}
    assert sum(name.startswith("store/retrain-3-") for name in found.keys() - apart) == 2
    for name in ("full/unet/diffusion_pytorch_model.safetensors", "queries/sample-4.png", "full/record.json"):
        assert found[name] == "identical"
    assert result(into)["then_and_now"] == []
    written = {path: path.stat().st_mtime_ns for path in into.rglob("*.safetensors")}
    capsys.readouterr()
    assert main(replay) == 0  # goes on, and has nothing to do
    assert "guda fit" not in capsys.readouterr().out.replace("the data of guda fit", "")
    assert {path: path.stat().st_mtime_ns for path in into.rglob("*.safetensors")} == written


@pytest.mark.torture
def test_a_whole_run_is_replayed(finished_run: Path) -> None:
    assert main(["replay", str(finished_run)]) == 0
    found = outcomes(finished_run.with_name("tiny-replay"))
    apart = {name for name, one in found.items() if one != "identical" and Path(name).name != "seal.json"}
    assert apart == {"report/index.html", "scores/costs/retrack-0.json"}


def test_a_replay_with_another_seed_differs(finished_run: Path, capsys: Out) -> None:
    record_instead(finished_run, "fit", seed_everything=1)
    into = finished_run.parent / "other"
    assert main(["replay", str(finished_run), "--stages", "fit", "--into", str(into)]) == 1
    found, files = outcomes(into), {one["file"]: one for one in result(into)["files"]}
    weights = "full/unet/diffusion_pytorch_model.safetensors"
    assert found[weights] == "differs" and files[weights]["distance"] > 1
    assert files[weights]["unit"] == "the largest change of a weight by training"
    assert files["full/record.json"]["reason"] == "config.seed_everything"
    assert found["full/unet/config.json"] == "identical"
    assert files["queries/sample-0.png"]["reason"] == "copied: no stage that is repeated made it"
    assert f"differs: {weights}: " in capsys.readouterr().out


def test_scores_with_another_noise_differ(finished_run: Path) -> None:
    steps = {step.stage: step for step in steps_of(RunFolder(finished_run)).values()}
    config = steps["attribute"].config
    assert config is not None
    record_instead(finished_run, "attribute", scoring={**config["scoring"], "seed": 1})
    into = finished_run.parent / "other"
    assert main(["replay", str(finished_run), "--stages", "attribute", "--into", str(into)]) == 1
    found = {one["file"]: one for one in result(into)["files"]}
    assert found["scores/retrack-0.parquet"]["outcome"] == "differs"
    assert found["store/retrack-3-06d93a9cb8db/model.safetensors"]["outcome"] == "not replayed"


def test_other_data_are_refused_before_anything_is_made(finished_run: Path, capsys: Out) -> None:
    config = next(iter(steps_of(RunFolder(finished_run)).values())).config
    assert config is not None
    arguments = {**config["data"]["init_args"], "seed": 1}  # which draws other 64 digits
    record_instead(finished_run, "fit", data={**config["data"], "init_args": arguments})
    assert main(["replay", str(finished_run)]) == 2
    said = capsys.readouterr().err
    assert "error: the training data are not those that guda fit worked on\n  found:    samples 64, " in said
    assert "; groups that changed: 0, 1, 2" in said
    assert said.endswith("  fix:      restore them, or say with -c FILE where they lie now\n")
    assert not finished_run.with_name("tiny-replay").exists()


STAGES = (
    "fit, sample, guide, unlearn, retrain, ensemble, attribute, placebo, property, balance, groups, curate, "
    "validate"
)
HASHES = {"data_hash": "0" * 64, "grouping_hash": "0" * 64, "input_shape": [1, 8, 8], "samples": 1}


@pytest.mark.parametrize(
    ("step", "found", "expected"),
    [
        (Step("report", "run", (), {}), "a configuration of guda report", f"that of a stage: {STAGES}"),
        (Step("../fit", "run", (), {}), "a configuration of guda ../fit", f"that of a stage: {STAGES}"),
        (Step("fit", "run", (), {"trainer": 3}), "a configuration without trainer", "one with trainer"),
        (
            Step("fit", "run", (), {"trainer": {}}, {**HASHES, "groups": {}}),
            "a configuration without data",
            "one with trainer, data",
        ),
        (
            Step("curate", "run", (), {"trainer": {}, "data": {}}, HASHES),
            "data: the document has no groups",
            "hashes of the data and of each of their groups",
        ),
        (
            Step("fit", "run", (), {"trainer": {}, "data": {}}, {**HASHES, "groups": {"a": 3}}),
            "data: groups.a is number instead of object",
            "hashes of the data and of each of their groups",
        ),
    ],
)
def test_a_whole_file_that_no_command_has_noted_is_refused(
    step: Step, found: str, expected: str, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path / "run")
    path = replace(step, stage="fit").save(run)
    write_json(path, {**step.to_json(), "format": 1})
    with pytest.raises(
        StoreError,
        match=message(
            f"{path} does not say what was run",
            found,
            expected,
            "restore the file, or use the version of guda-lightning that wrote it",
        ),
    ):
        Plan.of(run, RunFolder(tmp_path / "into"), None, ())


def test_what_cannot_be_replayed_is_refused(finished_run: Path, capsys: Out) -> None:
    def refused(*arguments: str) -> str:
        assert main(["replay", str(finished_run), *arguments]) == 2
        return capsys.readouterr().err

    taken = finished_run.with_name("taken")
    taken.mkdir()
    (taken / "mine.txt").write_text("mine")
    assert refused("--into", str(taken)) == (
        f"error: {taken} is no folder for this replay\n"
        "  found:    other files\n"
        "  expected: a folder that is not there yet, or that of the same replay, which then goes on\n"
        "  fix:      pass another --into, or remove it\n"
    )
    inside = finished_run / "again"
    assert refused("--into", str(inside)) == (
        f"error: {inside} is no folder for this replay\n"
        f"  found:    a folder in {finished_run}, which is compared with it\n"
        "  expected: a folder outside of the run folder\n"
        "  fix:      pass another --into\n"
    )
    assert refused("--stages", "fit,atribute") == (
        "error: --stages names a stage that this run has not seen: atribute\n"
        "  found:    atribute\n"
        "  expected: fit, sample, unlearn, attribute\n"
        "  fix:      did you mean attribute?\n"
    )
    assert refused("--tolerance", "nan") == (
        "error: tolerance is out of range\n"
        "  found:    nan\n"
        "  expected: 0 <= tolerance <= 1\n"
        "  fix:      leave out --tolerance, or pass a share such as 0.05\n"
    )
    for path in (finished_run / "history").iterdir():
        path.unlink()
    assert refused() == (
        f"error: {finished_run} does not say how it was made\n"
        f"  found:    no file in {finished_run / 'history'}\n"
        "  expected: what each command was run with, as guda keeps it there\n"
        "  fix:      repeat the commands that made it: what is complete is skipped, and noted\n"
    )


def test_an_evaluation_is_noted_and_repeated(finished_run: Path) -> None:
    run = RunFolder(finished_run)
    step = Step("evaluate", "runs/a", ("runs/a", "--wandb", "mine", "--scores", "runs/a/scores/x.parquet"))
    assert moved(step.arguments, step.run, "there") == [
        *("there", "--wandb", "mine", "--scores", "there/scores/x.parquet")
    ]
    assert step.save(run).name == f"0005-evaluate-{step.identity[:12]}.json"
    assert list(steps_of(run).values())[-1] == step
    elsewhere = replace(step, run="b", arguments=("b", "--wandb", "mine", "--scores", "b/scores/x.parquet"))
    assert elsewhere.identity == step.identity  # wherever the run folder lies


def test_what_was_replaced_since_is_not_repeated(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")

    def ran(stage: str, file: str, seed: int) -> None:
        (run.root / file).parent.mkdir(parents=True, exist_ok=True)
        (run.root / file).write_text(str(seed), "utf-8")
        Step(stage, str(run.root), (), {"trainer": {}, "seed_everything": seed}, files=(file,)).save(run)

    def repeated() -> list[str]:
        plan = Plan.of(run, RunFolder(tmp_path / "again"), None, [])
        assert "queries/0.png" not in plan.copied
        return [name[:4] for name in plan.steps]

    write_json(run.checkpoints("fit") / "record.json", {})  # which no stage is to go on from
    ran("fit", "full/model.safetensors", 0)
    ran("sample", "queries/0.png", 0)
    ran("unlearn", "store/a/model.safetensors", 0)
    assert repeated() == ["0001", "0002", "0003"]
    ran("sample", "queries/0.png", 1)
    assert repeated() == ["0001", "0003", "0004"]
    ran("fit", "full/model.safetensors", 0)  # after it was lost: the same one
    assert repeated() == ["0001", "0003", "0004", "0005"]
    ran("fit", "full/model.safetensors", 1)
    ran("sample", "queries/0.png", 1)
    assert repeated() == ["0006", "0007"]
    plan = Plan.of(run, RunFolder(tmp_path / "again"), None, [])
    assert plan.copied == {"store/a/model.safetensors": "copied: no stage that is repeated made it"}


def test_what_other_code_has_made_again_is_not_taken_for_todays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, into = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "again")
    Step("fit", str(run.root), (), {"trainer": {}}, files=("full/x.json",)).save(run)
    Plan.of(run, into, None, []).done(Plan.of(run, into, None, []).begin())
    Plan.of(run, into, None, [])  # the same replay
    monkeypatch.setattr(planning, "code", lambda: {"sha256": "0" * 64})
    refused = message(
        f"{into.root} is no folder for this replay",
        found="a replay of something else, or by other code",
        expected="a folder that is not there yet, or that of the same replay, which then goes on",
        fix="pass another --into, or remove it",
    )
    with pytest.raises(StoreError, match=refused):
        Plan.of(run, into, None, [])


def test_a_run_of_which_only_a_comparison_is_noted_is_refused(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    name = Step("evaluate", str(tmp_path), (str(tmp_path), "--yardstick", "y.json")).save(run).name
    refused = message(
        f"{tmp_path} does not say how it was made",
        found=f"{run.history} with {name} alone, which works on more than this run",
        expected="what each command was run with, as guda keeps it there",
        fix="repeat the commands that made it: what is complete is skipped, and noted",
    )
    with pytest.raises(StoreError, match=refused):
        Plan.of(run, RunFolder(tmp_path / "again"), None, [])


def test_weights_are_apart_in_units_of_what_training_moved(tmp_path: Path) -> None:
    start = {"a": torch.zeros(3), "b": torch.ones(2)}
    before = {"a": torch.tensor([0.0, 0.5, -2.0]), "b": torch.ones(2)}
    after = {"a": torch.tensor([0.0, 0.5, -2.0]), "b": torch.tensor([1.0, 1.5])}
    one, other = tmp_path / "one.safetensors", tmp_path / "other.safetensors"
    save_file(before, one)
    save_file(after, other)
    assert of_weights(one, other, start).distance == 0.25
    assert of_weights(one, other, None).distance == 0.5  # of the largest weight of b
    assert of_weights(one, other, {"a": start["a"]}).unit == "the largest weight of its tensor"
    save_file({"a": before["a"]}, other)
    assert math.isinf(of_weights(one, other, start).distance)
    assert load_file(one).keys() == before.keys()


def test_pictures_are_apart_in_units_of_their_range(tmp_path: Path) -> None:
    pixels = np.full((4, 4), 100, dtype=np.uint8)
    for name, value in (("one", 100), ("other", 151)):
        pixels[1, 2] = value
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    assert of_pictures(tmp_path / "one.png", tmp_path / "other.png").distance == pytest.approx(0.2)
    Image.fromarray(pixels[:2]).save(tmp_path / "small.png")
    assert math.isinf(of_pictures(tmp_path / "one.png", tmp_path / "small.png").distance)


def scores(
    path: Path, values: torch.Tensor, stderr: torch.Tensor, groups: tuple[str, ...] = ("a", "b")
) -> Path:
    shared: dict[str, Any] = {"method": "m", "weighting": "elbo", "seed": 0, "record": ScoreRecord(Custom())}
    names: dict[str, Any] = {"query_ids": ["x", "y"], "groups": groups, "n_draws": 2}
    ScoreTable.from_matrix(values, stderr, **names, **shared).save(path)
    return path


def test_scores_are_apart_in_units_of_their_standard_errors(tmp_path: Path) -> None:
    values, stderr = torch.tensor([[1.0, 2.0], [3.0, -4.0]]), torch.full((2, 2), 0.5)
    moved_one = values + torch.tensor([[0.0, 0.25], [0.0, 0.0]])
    one, other = scores(tmp_path / "1", values, stderr), scores(tmp_path / "2", moved_one, stderr)
    assert of_tables(one, other).distance == 0.5
    exact = [scores(tmp_path / str(n), each, 0 * stderr) for n, each in ((3, values), (4, moved_one))]
    assert of_tables(*exact).distance == 0.25 / 4  # of the largest score
    assert math.isinf(of_tables(one, scores(tmp_path / "5", values, stderr, ("a", "c"))).distance)
    nothing = scores(tmp_path / "6", 0 * values, 0 * stderr)
    assert math.isinf(of_tables(nothing, exact[0]).distance) and of_tables(nothing, nothing).distance == 0


def test_records_are_compared_but_for_hashes_and_costs(tmp_path: Path) -> None:
    one, other = tmp_path / "one.json", tmp_path / "other.json"
    record = {"loss": 2.0, "seconds": 3, "name": "x-0123456789ab", "at": "runs/a/full", "steps": 4}
    one.write_text(json.dumps(record))

    def distance(**changed: object) -> float:
        other.write_text(json.dumps({**record, "at": "b/full", **changed}))
        return of_records(one, other, "runs/a", "b").distance

    assert distance() == 0
    assert distance(seconds=9, name="x-ba9876543210") == 0
    assert distance(loss=1.5) == 0.25
    assert math.isinf(distance(steps=5))
    assert math.isinf(distance(name="y-0123456789ab"))
    assert math.isinf(distance(more=1))


def every_stage() -> Iterator[tuple[str, list[str]]]:
    """All YAML that comes along, for the stage that takes it, and the stages that need none."""
    for stage in ("guide", "ensemble", "groups", "balance"):
        yield stage, []
    yield "property", ["--property", "guda_lightning.attribution.Brightness"]
    folders = {"attribute": "attribute", "unlearn": "unlearn", "retrain": "retrain", "callbacks": "fit"}
    for name in shipped():
        if stage := folders.get(name.partition("/")[0]):
            yield stage, ["-c", name]


@pytest.mark.torture
def test_every_configuration_is_read_back_from_its_record(tmp_path: Path) -> None:
    run, into = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "into")
    plan, read = Plan(run, into, {}, {}, ()), 0
    for stage, more in every_stage():
        command = find(stage)
        assert isinstance(command, Stage)
        cli = parse(command, located(["-c", "digits.yaml", *more, "--run", str(run.root)]))
        before = {**cli.values(), "spread": None}
        step = Step(stage, str(run.root), (), before)
        after = {**parsed(plan, "0001-x.json", step, tmp_path).values(), "spread": None}
        expected = moved(before, str(run.root), str(into.root))
        assert after == {**expected, "trainer": {**expected["trainer"], "logger": False}}, (stage, more)
        read += 1
    assert read > 40
