"""``guda guide``, and all that follows from a posterior, through the command line."""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from guda_lightning import CounterfactualStore, ScoreTable
from guda_lightning.cli.main import main
from guda_lightning.diffusion import open_schedule
from guda_lightning.errors import StoreError
from guda_lightning.posteriors import KINDS, PosteriorStore, open_posterior
from guda_lightning.storage.history import steps_of
from guda_lightning.storage.runs import RunFolder
from toys import message

CONF = Path(__file__).parents[1] / "conf"
SHARED = ["-c", f"{CONF}/digits.yaml"]
GUIDE = ["guide", *SHARED, "-c", f"{CONF}/guide.yaml"]
ATTRIBUTE = ["attribute", *SHARED, "-c", f"{CONF}/attribute.yaml", "--operator", "guidance"]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def succeed(*arguments: object) -> None:
    assert main([str(argument) for argument in arguments]) == 0


def test_guidance_is_made_in_parts_and_scores_all_groups(
    guided_run: Path, _guided_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = _guided_run.with_name("told.txt").read_text()
    parts = ["dense classifier", "convolutional classifier (8)", "patch kernel", "guidance"]
    assert re.search(
        r"^guide: up to 12 steps of 16 images through a classifier of \d+ parameters$", out, re.M
    )
    done = r"^guide: (.*) of 10 groups done, [\d.]+ m?s, \d+ network evaluations"
    assert re.findall(done, out, re.M) == parts
    store = PosteriorStore(guided_run / "store")
    records = {kind: [r for r in store.records() if r.kind == kind] for kind in KINDS}
    assert [len(found) for found in records.values()] == [1, 2, 0, 1, 0]  # of KINDS, in order
    assert all(record.groups == tuple(map(str, range(10))) for record in store.records())
    assert [record.network_evaluations for record in records["classifier"]] == [12 * 16] * 2
    (mixture,), (kernel,) = records["guidance"], records["patch_kernel"]
    named = {member["name"]: member["hash"] for member in mixture.members}
    assert named == {r.key.folder_name: r.weights_hash for r in store.records() if r.kind != "guidance"}
    near = [level["mse"] < 0.05 for level in kernel.levels]
    assert [level["weights"] for level in mixture.levels] == [
        [0.25, 0.25, 0.5] if good else [0.5, 0.5, 0.0] for good in near
    ]
    for level in (kernel.levels[0], kernel.levels[-1]):  # those between are in the record
        assert f"t {level['first']:>4}-{level['last']:<4} window {level['window']}" in out
    assert "still learning: 100% of what it learnt came in the last quarter of its steps" in out
    assert not mixture.is_settled
    assert store.methods() == ["guidance"]  # its parts are no methods of their own
    assert not (guided_run / "checkpoints").exists() or not list((guided_run / "checkpoints").iterdir())

    succeed(*ATTRIBUTE, "--run", guided_run)
    out = capsys.readouterr().out
    # The full model's errors were kept by the scoring of retrack; one more pass serves all groups.
    assert "attribute: 5 queries, 10 groups, 50 network evaluations" in out
    table = ScoreTable.load(guided_run / "scores" / "guidance-0.parquet")
    assert table.methods == ("guidance",)
    assert table.groups == tuple(map(str, range(10)))
    assert table.record.details.hparams_hash == mixture.hparams_hash
    assert not table.record.details.sized  # by classifiers that were still learning
    assert table.select(weighting="elbo").matrix().abs().max() > 0

    shutil.rmtree(store.path(kernel.key))
    missing = message(
        f"the guidance of {', '.join(map(str, range(10)))} (seed 0) lacks a part",
        f"no {kernel.key.folder_name} with the hash {kernel.weights_hash[:8]} in {store.root}",
        "all posteriors that it is made of",
        "run guda guide, which makes what is missing",
    )
    with pytest.raises(StoreError, match=missing):
        open_posterior(store, "guidance", open_schedule(guided_run / "full"), seed=0)
    # Only what is missing is made.
    succeed(*GUIDE, "--run", guided_run)
    out = capsys.readouterr().out
    assert "guide: dense classifier is complete, skipped\n" in out
    assert re.findall(done, out, re.M)[0] == "patch kernel"
    assert store.find("guidance", seed=0).weights_hash == mixture.weights_hash  # of the same windows
    # A mixture by another rule for the weights of the same members is no longer the one that is meant.
    store.save({}, replace(mixture, levels=mixture.levels[:1]))
    succeed(*GUIDE, "--run", guided_run)
    assert "guide: patch kernel is complete, skipped\nguide: the mixture of" in capsys.readouterr().out
    assert store.find("guidance", seed=0).weights_hash == mixture.weights_hash
    succeed(*GUIDE, "--run", guided_run)
    assert capsys.readouterr().out == "".join(f"guide: {name} is complete, skipped\n" for name in parts)
    succeed(*ATTRIBUTE, "--run", guided_run)
    assert "guidance-0.parquet is complete, skipped" in capsys.readouterr().out
    tables = [guided_run / "scores" / f"{name}-0.parquet" for name in ("guidance", "retrack")]
    succeed("report", guided_run, "--scores", *tables)
    page = (guided_run / "report" / "index.html").read_text()
    assert all(f'"method":"{name}"' in page.replace(": ", ":") for name in ("guidance", "retrack"))


def test_run_guides_unlearns_by_it_and_shows_both(
    guided_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    objective = {"class_path": "guda_lightning.unlearning.Guided", "init_args": {"store": "${run}/store"}}
    few = tmp_path / "few.yaml"
    few.write_text(yaml.safe_dump({"objective": objective, "steps": 1, "groups": "3,7"}))
    scored = tmp_path / "scored.yaml"
    scored.write_text(yaml.safe_dump({"scoring": {"strata": 5, "draws": 2}, "groups": "3,7"}))
    run = ["run", *SHARED, "--run", guided_run, "--guide", f"{CONF}/guide.yaml", "--unlearn", few]
    run += ["--sample", f"{CONF}/sample.yaml", "--attribute", scored]
    succeed(*run)
    out = capsys.readouterr().out
    skipped = [
        "fit: .*",
        "sample: .*",
        *[f"guide: {part}.*" for part in ("dense", "conv", "patch", "guidance")],
    ]
    assert re.match("".join(f"{line}, skipped\n" for line in skipped), out)
    tables = [guided_run / "scores" / f"{name}-0.parquet" for name in ("guidance", "guided")]
    assert all(ScoreTable.load(table).groups == ("3", "7") for table in tables)
    page = (guided_run / "report" / "index.html").read_text().replace(": ", ":")
    found = re.findall('"method":"(.*?)"', page)
    assert list(dict.fromkeys(found)) == ["guidance", "guided"]  # guidance first
    steps = steps_of(RunFolder(guided_run)).values()
    operators = [step.config["operator"] for step in steps if step.stage == "attribute" and step.config]
    assert operators[-2:] == [
        "guidance",
        "guided",
    ]  # a replay makes both
    before = {path: path.stat().st_mtime_ns for path in (guided_run / "store").rglob("*")}
    succeed(*run)  # skips all of it
    assert len(re.findall("skipped", capsys.readouterr().out)) == 9
    assert {path: path.stat().st_mtime_ns for path in (guided_run / "store").rglob("*")} == before
    assert main(["report", str(guided_run), "--scores", *map(str, tables[:1]), f"{guided_run}/nowhere"]) == 2


def test_every_kind_scores_draws_and_unlearns(guided_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    succeed(*GUIDE, "--posterior", "image_kernel", "--run", guided_run)
    for kind in ("image_kernel", "patch_kernel"):
        succeed(*ATTRIBUTE[:-1], kind, "--run", guided_run, "--groups", "3,3+7")
        table = ScoreTable.load(guided_run / "scores" / f"{kind}-0.parquet")
        assert (table.methods, table.groups) == ((kind,), ("3", "3+7"))
    sample = ["sample", *SHARED, "-c", f"{CONF}/sample.yaml", "--run", guided_run]
    succeed(*sample, "--operator", "patch_kernel", "--without", "3", "--num", 2)
    assert list(RunFolder(guided_run).without_groups("patch_kernel", "3").glob("*.png"))
    unlearn = ["unlearn", *SHARED, "-c", "unlearn/guided.yaml", "--run", guided_run, "--steps", 2]
    succeed(*unlearn, "--groups", "3", "--objective.init_args.posterior", "patch_kernel")
    assert CounterfactualStore(guided_run / "store").operators() == ["guided_patch_kernel", "retrack"]
    options = {"operator": "patch_kernel", "max_queries": 2, "scoring": {"strata": 2, "draws": 1}}
    watch = [{"class_path": "guda_lightning.ELBOAttributionCallback", "init_args": options}]
    succeed("validate", *SHARED, "--trainer.callbacks", json.dumps(watch), "--run", guided_run)
    assert "influence/3" in capsys.readouterr().out
    assert main([*ATTRIBUTE[:-1], "classifier", "--run", str(guided_run)]) == 2
    err = capsys.readouterr().err
    assert "holds several posteriors of kind classifier" in err and "classifier.channels=[8]" in err


def test_where_a_kernel_would_take_too_long_guidance_is_by_classifiers_and_says_so(
    guided_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("guda_lightning.posteriors.patch_kernel.MAX_MULTIPLICATIONS", 0)
    succeed(*GUIDE, "--run", guided_run)
    said, *lines = capsys.readouterr().out.splitlines()
    assert said.startswith(
        "guide: no patch kernel, as the patch kernel would take too long on images of 8 x 8 ("
    )
    assert lines[0] == "guide: dense classifier is complete, skipped"
    assert lines[-1] == "  t    1-48   0.5 dense classifier, 0.5 convolutional classifier (8)"
    records = [r for r in PosteriorStore(guided_run / "store").records() if len(r.members) == 2]
    assert [r.hparams["left_out"] for r in records] == [
        {"patch_kernel": said.removeprefix("guide: no patch kernel, as ")}
    ]
    assert main([*GUIDE, "--posterior", "patch_kernel", "--run", str(guided_run), "--seed", "1"]) == 2
    assert "the patch kernel would take too long on images of 8 x 8\n" in capsys.readouterr().err


def test_scores_of_the_full_model_are_shared_with_other_methods(guided_run: Path) -> None:
    before = set((guided_run / "scores" / "errors").iterdir())
    succeed(*ATTRIBUTE, "--run", guided_run, "--groups", "3,7")
    assert len(set((guided_run / "scores" / "errors").iterdir()) - before) == 2  # groups, not the full model


def test_scoring_without_a_posterior_names_the_command(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*ATTRIBUTE, "--run", str(finished_run)]) == 2
    assert capsys.readouterr().err == (
        f"error: there is no posterior of kind guidance in {finished_run / 'store' / 'posteriors'}\n"
        "  found:    none of any kind\n"
        "  expected: one with seed 0\n"
        "  fix:      run guda guide\n"
    )


def test_a_store_of_two_kinds_asks_which(guided_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    arguments = ["attribute", *SHARED, "-c", f"{CONF}/attribute.yaml", "--run", str(guided_run)]
    assert main(arguments) == 2
    assert "found:    guidance, retrack" in capsys.readouterr().err
    assert main([*arguments, "--operator", "guidence"]) == 2
    assert capsys.readouterr().err == (
        f"error: no counterfactual in {guided_run / 'store'} was made by guidence\n"
        "  found:    those of guidance, retrack\n"
        "  expected: operator guidence\n"
        "  fix:      use guidance, or run guda unlearn\n"
    )


def test_the_store_alone_says_that_guidance_is_meant(
    guided_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (guided_run / "store").glob("retrack-*"):
        shutil.rmtree(path)
    arguments = ["attribute", *SHARED, "-c", f"{CONF}/attribute.yaml", "--run", str(guided_run)]
    succeed(*arguments, "--groups", "3")
    assert ScoreTable.exists(guided_run / "scores" / "guidance-0.parquet")


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        (("--classifier.steps", "0"), "classifier.steps is out of range"),
        (("--classifier.held_out", "1"), "the share of held-out samples is out of range"),
        (("--classifier.chanels", "8"), "chanels"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(
    finished_run: Path, capsys: pytest.CaptureFixture[str], option: tuple[str, str], expected: str
) -> None:
    before = {path for path in finished_run.rglob("*")}
    assert main([*GUIDE, "--run", str(finished_run), *option]) == 2
    assert expected in capsys.readouterr().err
    assert {path for path in finished_run.rglob("*")} == before


def test_an_interrupted_classifier_goes_on_and_ends_alike(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("guda_lightning.posteriors.classifier.TEST_EVERY", 3)  # before and after
    guide = [*GUIDE, "--posterior", "classifier", "--run", str(finished_run)]
    succeed(*guide)
    store = PosteriorStore(finished_run / "store")
    (record,) = store.records()
    whole = store.load(record.key, expect=None)[0]
    shutil.rmtree(store.path(record.key))

    script = tmp_path / "interrupts.py"
    script.write_text(
        "from lightning.pytorch import Callback\n"
        "class Stop(Callback):\n"
        "    def on_train_batch_end(self, trainer, *args):\n"
        "        if trainer.global_step == 7:\n"
        "            raise KeyboardInterrupt\n"
    )
    sys.path.insert(0, str(tmp_path))
    try:
        stop = json.dumps([{"class_path": "interrupts.Stop"}])
        assert main([*guide, "--trainer.callbacks", stop]) == 130
    finally:
        sys.path.remove(str(tmp_path))
    assert not store.exists(record.key)
    succeed(*guide)
    again, made = store.load(record.key, expect=None)
    assert made.network_evaluations == record.network_evaluations
    for name, weights in whole.items():
        assert torch.equal(weights, again[name]), name


def test_the_guided_objective_makes_models_of_its_own(
    classified_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unlearn = ["unlearn", *SHARED, "-c", "unlearn/guided.yaml", "--run", str(classified_run)]
    unlearn += ["--steps", "2", "--groups", "3"]
    assert main(unlearn) == 2
    problem = f"there is no posterior of kind guidance in {classified_run / 'store' / 'posteriors'}"
    assert problem in capsys.readouterr().err
    succeed(*unlearn, "--objective.init_args.posterior", "classifier")
    (record,) = PosteriorStore(classified_run / "store").records()
    store = CounterfactualStore(classified_run / "store")
    made = store.select("guided_classifier", 0)
    assert list(made) == ["3"]
    of = store.record(made["3"]).hparams["objective"]
    assert of == {"class": "Guided", "forget_weight": 1.0, "posterior": record.weights_hash}


def test_groups_are_removed_together(guided_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    succeed(*ATTRIBUTE, "--run", guided_run, "--groups", "7+3,3,7")
    table = ScoreTable.load(guided_run / "scores" / "guidance-0.parquet")
    assert table.groups == ("3+7", "3", "7")
    sizes = table.record.group_sizes
    assert sizes["3+7"] == sizes["3"] + sizes["7"]
    together, three, seven = table.select(weighting="elbo").matrix().T
    assert not torch.allclose(together, three + seven)

    unlearn = ["unlearn", *SHARED, "-c", f"{CONF}/zero_target.yaml", "--run", str(guided_run)]
    succeed(*unlearn, "--groups", "3+7,3")
    of_zero_target = ["attribute", *SHARED, "-c", f"{CONF}/attribute_zero_target.yaml", "--run", guided_run]
    succeed(*of_zero_target, "--groups", "3,7+3")
    assert ScoreTable.load(guided_run / "scores" / "zero_target-0.parquet").groups == ("3", "3+7")
    capsys.readouterr()
    assert main([str(argument) for argument in [*of_zero_target, "--groups", "1+2"]]) == 2
    assert "run guda unlearn with --groups 1+2" in capsys.readouterr().err
    assert main([str(argument) for argument in [*ATTRIBUTE, "--run", guided_run, "--groups", "3+77"]]) == 2
    assert "unknown group '77'" in capsys.readouterr().err
    every = "+".join(map(str, range(10)))
    assert main([str(argument) for argument in [*ATTRIBUTE, "--run", guided_run, "--groups", every]]) == 2
    assert "cover all training samples" in capsys.readouterr().err


def test_shapley_values_come_from_the_shipped_configuration(guided_run: Path) -> None:
    shapley = ["attribute", *SHARED, "-c", "attribute/shapley.yaml", "--run", str(guided_run)]
    shapley += ["--attributor.init_args.count", "20", "--attributor.init_args.scoring.strata", "3"]
    succeed(*shapley)
    table = ScoreTable.load(guided_run / "scores" / "shapley-0.parquet")
    assert table.groups == tuple(map(str, range(1, 10)))  # 0 is the reference
    succeed(*ATTRIBUTE, "--groups", "+".join(map(str, range(1, 10))), "--scoring.strata", "3",
            "--scoring.draws", "1", "--run", guided_run)  # fmt: skip
    whole = ScoreTable.load(guided_run / "scores" / "guidance-0.parquet")
    torch.testing.assert_close(
        table.select(weighting="elbo").matrix().sum(dim=1),
        whole.select(weighting="elbo").matrix()[:, 0],
        atol=1e-3,
        rtol=1e-3,
    )
    succeed("report", guided_run, "--scores", guided_run / "scores" / "shapley-0.parquet")


def test_a_race_says_how_it_ended(guided_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    race = ["attribute", *SHARED, "-c", "attribute/race.yaml", "--run", str(guided_run)]
    succeed(*race)
    assert re.search(r"race: the top 1 of \d of 5 queries are known at δ = 0.05", capsys.readouterr().out)
    table = ScoreTable.load(guided_run / "scores" / "guidance_race-0.parquet")
    assert (table.methods, table.weightings) == (("guidance_race",), ("uniform",))
    succeed(*race)
    assert "guidance_race-0.parquet is complete, skipped" in capsys.readouterr().out


def test_the_same_noise_is_sampled_without_a_group(
    finished_run: Path, guided_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = ["sample", *SHARED, "-c", f"{CONF}/sample.yaml", "--operator", "guidance", "--run"]
    assert main([*sample, str(finished_run), "--without", "3"]) == 2
    assert capsys.readouterr().err == (
        f"error: there is no posterior of kind guidance in {finished_run / 'store' / 'posteriors'}\n"
        "  found:    none of any kind\n"
        "  expected: one with seed 0\n"
        "  fix:      run guda guide\n"
    )
    sample += [str(guided_run)]
    succeed(*sample, "--without", "7+3,1")
    folder = RunFolder(guided_run)
    for groups in ("3+7", "1"):
        found = folder.without_groups("guidance", groups)
        names = {path.name for path in found.glob("*.png")}
        assert names == {path.name for path in (guided_run / "queries").glob("*.png")}
        config = json.loads((found / "record.json").read_text())["config"]
        assert (config["operator"], config["without"]) == ("guidance", groups)
    capsys.readouterr()
    succeed(*sample, "--without", "1,3+7")
    assert capsys.readouterr().out == "sample: 2 complete, skipped: 1, 3+7\n"
    assert main([*sample, "--without", "33"]) == 2
    assert "unknown group '33'" in capsys.readouterr().err
